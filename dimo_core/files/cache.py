"""Remote files, fetched once into a folder of this machine.

A file lies under ``<cache>/<hash of its URL>/<its own name>`` and gets that name only when it is whole. It is
never looked up again: delete it (or its folder) to have it fetched anew. Passwords and signatures do
not count in the hash.

fsspec's own ``filecache`` is not used: it downloads under the final name, so that an interrupted file counts
as whole, and its copies expire.
"""

import contextlib
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
from fsspec.callbacks import Callback
from loguru import logger
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from dimo_core import limits
from dimo_core.errors import CheckpointError, MissingLibraryError, StorageError
from dimo_core.files.folder import Folder, whole
from dimo_core.files.urls import client_options, is_missing, local_path, remedy, told
from dimo_core.texts import is_masked, masked


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
    if local_path(url) is not None:
        if not copy.is_file():
            raise CheckpointError(f"no file {url}")
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
        MissingLibraryError: for ``certain``, without the library for its protocol.
    """
    if local_path(url) is not None or _copy_of(url).is_file():
        return _copy_of(url).is_file()
    parent, _, name = url.rpartition("/")
    try:
        return Folder(parent).exists(name)
    except (StorageError, MissingLibraryError) as error:
        if certain:
            raise
        logger.warning("{}; it is taken for missing", error)
        return False


def check_folder(url: str, needed: str, endings: Sequence[str] = ()) -> None:
    """Refuse a path of this machine that leads to nothing, or to a file where a teacher's folder is read.

    Args:
        url: Path or URL; a remote one shows what it is as it is read.
        needed: What a teacher is made of, for the message.
        endings: Those of the weights files that would do as well.

    Raises:
        CheckpointError: then.
    """
    path = local_path(url)
    if path is None or path.is_dir():
        return
    wrong = "there is no such file or folder"
    if path.exists():
        others = f" or a weights file ({', '.join(endings)})" if endings else ""
        wrong = f"that is a file, and a folder{others} is needed"
    raise CheckpointError(f"no teacher in {url!r}: {wrong}. {needed}")


def _copy_of(url: str) -> Path:
    """Where the file is, or will be, on this machine."""
    if (path := local_path(url)) is not None:
        return path
    name = re.split(r"[?#]", url.split("::")[0].rstrip("/"))[0].rsplit("/", 1)[-1]
    safe = re.sub(r"[^\w.-]", "_", name).lstrip(".")[-120:] or "file"
    return cache_folder() / hashlib.sha256(masked(url).encode()).hexdigest()[:16] / safe


def _check(copy: Path, url: str, sha256: str | None) -> None:
    if sha256 is not None and (found := file_sha256(copy)) != sha256.lower():
        raise CheckpointError(
            f"{url} is damaged or another file than expected: its SHA-256 is {found}, expected {sha256}. "
            "Use another copy, or the digest of this file if you trust it."
        )


def _fetch(url: str, copy: Path, sha256: str | None) -> None:
    if is_masked(url):
        raise CheckpointError(
            f"{url} cannot be fetched: its user name, password or signature was left out when it was stored. "
            "Give the whole URL again where it was given first, or download the file and give its path."
        )
    with _explained(url):
        fs, path = fsspec.core.url_to_fs(url, **client_options(url))
        info = fs.info(path)
    if info.get("type") == "directory":
        raise CheckpointError(f"{url} is a folder; name one file in it.")
    size = info.get("size")
    known = "unknown size" if size is None else decimal(size)
    logger.info("fetching {} ({}) into {}", url, known, copy.parent)
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"the cache {cache_folder()} cannot be written to ({error}). Set DIMO_CACHE to a folder that can."
        ) from error
    free = min(shutil.disk_usage(copy.parent).free, limits.FETCHED)
    if size is not None and size > free:
        raise CheckpointError(f"{url} has {decimal(size)}, and {copy.parent} has room for {decimal(free)}.")
    columns = (BarColumn(20), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(compact=True))
    bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    with whole(copy) as part:
        with _explained(url), bar:
            fs.get_file(path, str(part), callback=_Shown(bar, free))
        if size is not None and part.stat().st_size != size:
            raise CheckpointError(f"{url} came with {part.stat().st_size} of {size} bytes; try again.")
        _check(part, url, sha256)


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    """Every file system raises errors of its own kind; all become one that names the URL."""
    try:
        yield
    except ImportError as error:
        raise CheckpointError(f"cannot open {url}, a library is missing: {error}.{remedy(url)}") from error
    except Exception as error:
        if is_missing(error):
            raise CheckpointError(f"no file {url}") from error
        raise CheckpointError(
            f"cannot fetch {url}: {told(error)}. Check the address, the connection and your access rights, "
            "or download the file by hand and give its path."
        ) from error


class _Shown(Callback):  # type: ignore[misc]
    """Shows fsspec's progress, and ends what has no end."""

    def __init__(self, bar: Progress, most: int) -> None:
        super().__init__()
        self.bar, self.task, self.most = bar, bar.add_task("", total=None), most

    def call(self, *_: Any, **__: Any) -> None:
        if self.value > self.most:
            raise OSError(f"more than {decimal(self.most)} came, and there is room for no more")
        self.bar.update(self.task, total=self.size, completed=self.value)
