"""A folder on any fsspec file system: a local path, ``memory://``, ``s3://`` ..."""

import os
import re
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import fsspec

from dimo_core import limits
from dimo_core.errors import MissingLibraryError, StorageError
from dimo_core.files.state import json_of, sealed_json, sealed_yaml, yaml_of
from dimo_core.files.urls import client_options, content, is_missing, local_path, remedy, told
from dimo_core.texts import masked


def _trimmed(url: str | os.PathLike[str]) -> str:
    return os.path.expanduser(os.fspath(url)).rstrip("/") or "/"


PART = ".part"
"""Ends the name of a file that is being written."""

CONFIG = "config.yaml"
"""The resolved configuration of a run, in its folder."""

OWNER = ".owner"
"""Ends the name of a file that tells who writes to a folder."""

BATCH_LOG = re.compile(r"(?!run\.log).*\.(out|err|log|[oe]\d+([.-]\d+)?)")
"""What a batch system writes into a folder before the command is started: ``slurm-1.out``."""


@contextmanager
def writing(path: str) -> Iterator[None]:
    """Every file system raises errors of its own kind; all become one that names the path."""
    try:
        yield
    except Exception as error:
        raise StorageError(
            f"cannot write {path!r} ({told(error)}). Choose a folder that can be written."
        ) from error


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name beside ``path`` that no other process uses, for what is renamed there at the end.

    After a failure nothing new is there, nor beside it.
    """
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{PART}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@attrs.frozen
class Folder:
    """A folder by path or URL; files in it are named relative to it.

    A file is written whole or not at all: locally it is written beside its place and renamed into it.

    Attributes:
        url: Path or fsspec URL.
        guard: A local file without which nothing is written here and no folder made; none when empty.
        mute: Whether what is written here goes nowhere, as another process writes the same.
    """

    url: str = attrs.field(converter=_trimmed)
    guard: str = attrs.field(default="", eq=False, repr=False)
    mute: bool = attrs.field(default=False, eq=False, repr=False)

    @property
    def _fs(self) -> Any:
        try:
            return fsspec.core.url_to_fs(self.url, **client_options(self.url))[0]
        except ImportError as error:
            raise MissingLibraryError(f"cannot open {self.url!r}: {error}.{remedy(self.url)}") from error
        except Exception as error:  # each file system raises its own
            advice = "Give a path, or a whole URL such as s3://bucket/folder."
            raise StorageError(f"cannot open {self.url!r} ({told(error)}). {advice}") from error

    def path(self, *parts: str) -> str:
        """The path or URL of a file in the folder."""
        return "/".join([self.url, *parts])

    def sub(self, *parts: str) -> "Folder":
        """A folder within."""
        return attrs.evolve(self, url=self.path(*parts))

    def exists(self, *parts: str) -> bool:
        """Whether the folder, or a file in it, is there.

        Raises:
            StorageError: when a remote place cannot be looked up: that is no answer.
        """
        path = self.path(*parts)
        if (place := local_path(path)) is not None:
            return os.path.exists(place)
        try:
            self._fs.info(path)
        except Exception as error:  # each file system raises its own
            if is_missing(error):
                return False
            raise StorageError(
                f"cannot look up {path!r} ({told(error)}). Check the address, the connection and your access "
                "rights."
            ) from error
        return True

    def check(self) -> None:
        """Whether it may be written to.

        Raises:
            StorageError: when it is owned, and was removed meanwhile.
        """
        if self.guard and not os.path.lexists(self.guard):
            raise StorageError(
                f"{os.path.dirname(self.guard)!r} was removed, moved or taken over by another process while "
                "it was written to. Nothing more is written there."
            )

    def is_file(self) -> bool:
        """Whether there is a file in place of the folder.

        Raises:
            StorageError: when a remote place cannot be looked up.
        """
        try:
            return bool(self._fs.isfile(self.url))
        except Exception as error:  # each file system raises its own
            raise StorageError(f"cannot look up {self.url!r} ({told(error)})") from error

    def names(self, *, ending: str = "") -> list[str]:
        """Names of the entries, sorted; empty when there is no such folder.

        Args:
            ending: ``OWNER`` for the files of owners; else these and half-written files are left out.
        """
        fs = self._fs
        if not fs.exists(self.url):
            return []
        fs.invalidate_cache()
        entries = [entry.rstrip("/").rsplit("/", 1)[-1] for entry in fs.ls(self.url, detail=False)]
        return sorted(e for e in entries if e.endswith(ending) and (ending or not e.endswith((PART, OWNER))))

    def strange_names(self, depth: int = 3) -> list[str]:
        """Names of what is no log of a batch system, nor a folder with nothing else, such as ``logs``.

        Args:
            depth: How many folders are looked into, one in another.
        """
        names = [name for name in self.names() if not BATCH_LOG.fullmatch(name)]
        return [name for name in names if not (depth and self.sub(name)._has_only_logs(depth - 1))]

    def _has_only_logs(self, depth: int) -> bool:
        return self.exists() and not self.is_file() and not self.strange_names(depth)

    def read(self, *parts: str, most: int = limits.ARRAYS) -> bytes:
        """The bytes of a file.

        Args:
            parts: Its name.
            most: How many there may be.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: when it has more bytes.
        """
        return content(self.path(*parts), most)

    def write(self, name: str, data: bytes | Iterable[bytes | memoryview], *, durable: bool = True) -> None:
        """Write a file whole, making folders as needed.

        Args:
            name: The file.
            data: Its content, or parts of it in order, of which no more than one is in memory; for a remote
                folder they are gathered in a temporary file.
            durable: Wait until a local file is on the disk; not needed for what is easily made again.

        Raises:
            StorageError: when it cannot be written; nothing half-written is left behind.
        """
        parts = [data] if isinstance(data, bytes) else data
        if self.mute:
            for _ in parts:  # making them may be the work of all processes
                pass
            return
        self.check()
        fs, path = self._fs, self.path(name)
        with writing(path):
            fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            if (place := local_path(path)) is None:
                if isinstance(data, bytes):
                    fs.pipe_file(path, data)
                    return
                with tempfile.NamedTemporaryFile() as spool:  # so that a part that fails leaves nothing there
                    spool.writelines(parts)
                    spool.flush()
                    fs.put_file(spool.name, path)
                return
            with whole(place) as half, half.open("wb") as file:
                file.writelines(parts)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())

    def append(self, name: str, text: str) -> None:
        """Append text to a file; on object stores the file is rewritten.

        Raises:
            StorageError: when it cannot be written.
        """
        if self.mute:
            return
        self.check()
        fs, path = self._fs, self.path(name)
        with writing(path):
            fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            if (place := local_path(path)) is None:
                old = fs.cat_file(path) if fs.exists(path) else b""
                fs.pipe_file(path, old + text.encode())
                return
            with place.open("a", encoding="utf-8") as file:
                file.write(text)

    def remove(self, *parts: str) -> None:
        """Delete a file or a folder within, if it is there."""
        path = self.path(*parts)
        if not self.mute and self._fs.exists(path):
            self._fs.rm(path, recursive=True)

    def read_yaml(self, name: str) -> Any:
        """Parse a YAML file, safely; one that ``write_yaml`` wrote is checked.

        Raises:
            FileNotFoundError: if there is none.
            CheckpointError: when it is no YAML, or damaged.
        """
        return yaml_of(self.read(name, most=limits.YAML), self.path(name))

    def write_yaml(self, name: str, data: Any) -> None:
        """Write plain data as YAML, keys in their order, without secrets of URLs."""
        self.write(name, sealed_yaml(masked(data)))

    def read_json(self, name: str) -> dict[str, Any]:
        """What ``write_json`` wrote.

        Raises:
            FileNotFoundError: if there is none.
            CheckpointError: when it is damaged.
        """
        return json_of(self.read(name), self.path(name))

    def write_json(self, name: str, data: Mapping[str, Any]) -> None:
        """Write plain data as indented JSON, without secrets of URLs."""
        self.write(name, sealed_json(masked(data)))
