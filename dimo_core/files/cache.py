"""Remote files, fetched once into a folder of this machine.

A file lies under ``<cache>/<hash of its URL>/<its own name>`` and gets that name only when it is whole. It is
never looked up again: delete it (or its folder) to have it fetched anew.

fsspec's own ``filecache`` is not used: it downloads under the final name, so that an interrupted file counts
as whole, and its copies expire.
"""

import contextlib
import hashlib
import json
import os
import re
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
from fsspec.callbacks import Callback
from loguru import logger
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from dimo_core.errors import CheckpointError, StorageError
from dimo_core.files.folder import Folder
from dimo_core.files.urls import cause_of, client_options, is_missing

EXTRAS = {"s3": "s3", "s3a": "s3", "hf": "hub"}
"""Which extra of this project brings the library for a protocol."""


def cache_folder() -> Path:
    """``$DIMO_CACHE``, else ``dimo`` in ``$XDG_CACHE_HOME``, else ``~/.cache/dimo``."""
    if own := os.environ.get("DIMO_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dimo"


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex; the file is not held in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def local_copy(url: str, *, sha256: str | None = None) -> Path:
    """A file on this machine with the content of ``url``.

    A local path or ``file://`` URL is its own copy. Anything else is fetched through fsspec the first time
    and taken from the cache (:func:`cache_folder`) from then on, without any connection.

    Args:
        url: Path or fsspec URL (``https://``, ``hf://``, ``s3://``, ``memory://`` ...).
        sha256: The expected digest, in hex. A cached copy that differs is fetched again, once.

    Raises:
        CheckpointError: no such file or protocol, a missing library, a failed connection, or another digest
            than expected. What was fetched of it is removed again.
    """
    copy = _copy_of(url)
    if _is_local(url):
        if not copy.is_file():
            raise CheckpointError(f"no file {url}")
        if sha256 is not None:
            _check(copy, url, sha256)
        return copy
    if copy.is_file():
        if sha256 is None or file_sha256(copy) == sha256.lower():
            return copy
        logger.warning("the copy {} has not the expected SHA-256; it is fetched again", copy)
    _fetch(url, copy, sha256)
    return copy


def is_there(url: str, *, certain: bool = False) -> bool:
    """Whether ``local_copy`` would find a file.

    Args:
        url: Path or fsspec URL.
        certain: Whether a place that cannot be looked up is an error. If not, a file there that was not
            fetched before is taken for missing, with a warning: so a teacher works without a connection.

    Raises:
        StorageError: for ``certain``, when the place cannot be looked up.
    """
    if _is_local(url) or _copy_of(url).is_file():
        return _copy_of(url).is_file()
    parent, _, name = url.rpartition("/")
    try:
        return Folder(parent).exists(name)
    except StorageError as error:
        if certain:
            raise
        logger.warning("{}; it is taken for missing", error)
        return False


def _is_local(url: str) -> bool:
    return fsspec.core.split_protocol(url)[0] in (None, "file", "local") and "::" not in url


def _copy_of(url: str) -> Path:
    """Where the file is, or will be, on this machine."""
    if _is_local(url):
        return Path(fsspec.core.split_protocol(url)[1]).expanduser()
    return cache_folder() / hashlib.sha256(url.encode()).hexdigest()[:16] / _base_name(url)


def _base_name(url: str) -> str:
    """The last part of a URL, made safe as a file name."""
    name = re.split(r"[?#]", url.split("::")[0].rstrip("/"))[0].rsplit("/", 1)[-1]
    return re.sub(r"[^\w.-]", "_", name).lstrip(".")[-120:] or "file"


def _check(copy: Path, url: str, sha256: str) -> None:
    if (found := file_sha256(copy)) != sha256.lower():
        raise CheckpointError(
            f"{url} is damaged or another file than expected: its SHA-256 is {found}, expected {sha256}. "
            "Use another copy, or the digest of this file if you trust it."
        )


def _fetch(url: str, copy: Path, sha256: str | None) -> None:
    """Download beside ``copy`` under a name that no other process uses, check, and only then rename."""
    part = copy.with_name(f"{copy.name}.{uuid.uuid4().hex[:8]}.part")
    with _explained(url):
        fs, path = fsspec.core.url_to_fs(url, **client_options(url))
        info = fs.info(path)
    if info.get("type") == "directory":
        raise CheckpointError(f"{url} is a folder; name one file in it.")
    size = info.get("size")
    logger.info("fetching {} ({}) into {}", url, _readable(size), copy.parent)
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"the cache {cache_folder()} cannot be written to ({error}). Set DIMO_CACHE to a folder that can."
        ) from error
    try:
        with _explained(url), _Bar() as bar:
            fs.get_file(path, str(part), callback=bar)
        if size is not None and part.stat().st_size != size:
            raise CheckpointError(f"{url} came with {part.stat().st_size} of {size} bytes; try again.")
        if sha256 is not None:
            _check(part, url, sha256)
        part.replace(copy)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    """Every file system raises errors of its own kind; all become one that names the URL."""
    try:
        yield
    except FileNotFoundError as error:
        if is_missing(error):
            raise CheckpointError(f"no file {url}") from error
        raise _failure(url, cause_of(error)) from error
    except ImportError as error:
        extra = EXTRAS.get(fsspec.core.split_protocol(url)[0])
        remedy = f" Run: pip install 'dimo[{extra}]'" if extra else ""
        raise CheckpointError(f"cannot open {url}, a library is missing: {error}.{remedy}") from error
    except Exception as error:
        raise _failure(url, error) from error


def _failure(url: str, error: BaseException) -> CheckpointError:
    return CheckpointError(
        f"cannot fetch {url}: {type(error).__name__}: {error}. Check the address, the connection and "
        "your access rights, or download the file by hand and give its path."
    )


def _readable(size: int | None) -> str:
    if size is None:
        return "unknown size"
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size} bytes"


class _Bar(Callback):  # type: ignore[misc]
    """A progress bar for fsspec, on a terminal only."""

    def __init__(self) -> None:
        super().__init__()
        columns = (BarColumn(20), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(compact=True))
        console = Console(stderr=True)
        self.progress = Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty())
        self.task = self.progress.add_task("", total=None)

    def __enter__(self) -> "_Bar":
        self.progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.progress.stop()

    def call(self, *_: Any, **__: Any) -> None:
        self.progress.update(self.task, total=self.size, completed=self.value)


SETTLED = 2.0
"""A file is remembered when its last change is at least so many seconds ago."""


def remembered_sha256(path: Path) -> str:
    """The SHA-256 of a file of this machine, in hex.

    Args:
        path: The file.
    """
    path = path.resolve()
    place, facts = _place(path), _facts(path)
    if (kept := _kept(place)) is not None and kept.get("facts") == facts:
        return str(kept["sha256"])
    digest = file_sha256(path)
    if facts == _facts(path) and time.time() - max(facts[-2:]) / 1e9 >= SETTLED:
        _keep(place, {"path": str(path), "facts": facts, "sha256": digest})
    return digest


def _place(path: Path) -> Path:
    return cache_folder() / "digests" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"


def _facts(path: Path) -> list[int]:
    """Device, inode, size, and times of change of content and of inode."""
    s = path.stat()
    return [s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns]


def _kept(place: Path) -> dict[str, object] | None:
    try:
        data = json.loads(place.read_bytes())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) and isinstance(data.get("sha256"), str) else None


def _keep(place: Path, data: dict[str, object]) -> None:
    """Write whole or not at all; a cache that cannot be written does no harm."""
    part = place.with_suffix(f".{uuid.uuid4().hex[:8]}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(data))
        os.replace(part, place)
    except OSError as error:
        logger.debug("the digest of {} is not kept: {}", data["path"], error)
