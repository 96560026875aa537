"""Files on any file system, opened with patience: ``Reader``."""

import gzip
import lzma
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from typing import Any, TypeVar

import attrs
import fsspec
from loguru import logger

from dimo_core.files.urls import cause_of, check_regular, client_options, is_missing, told_version

T = TypeVar("T")

FIRST_WAIT = 1.0
"""Seconds before the second attempt; each further wait is twice as long, up to ``LONGEST_WAIT``."""

LONGEST_WAIT = 60.0
"""Seconds."""

DAMAGE = (tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError, ValueError)
"""What is wrong with the content of a file rather than with its transport."""

LOCAL = {"file", "local", "memory"}
"""Protocols whose files arrive whole."""


@attrs.frozen(kw_only=True)
class Reader:
    """Opens files, and tries again.

    Attributes:
        timeout: Seconds of silence, or over http of less than 1000 bytes each, after which a connection has
            failed.
        retries: Further attempts after a failure.
    """

    timeout: float
    retries: int

    @contextmanager
    def open(self, url: str, compression: str | None = None) -> Iterator[BufferedReader]:
        """A binary file, to be read once from its beginning to its end."""
        filesystem, path = self._found(url)
        whole = {"block_size": 0} if "http" in _protocols(filesystem) else {}  # one request, without ranges
        with (
            filesystem.open(path, "rb", compression=compression, **whole) as file,
            BufferedReader(file, 2**16) as buffered,  # not all file systems read lines well
        ):
            yield buffered

    def range(self, url: str, start: int, length: int) -> bytes:
        """Some bytes of a file.

        Raises:
            EOFError: when the file has no so many.
        """
        filesystem, path = self._found(url)
        data: bytes = filesystem.cat_file(path, start=start, end=start + length)
        if len(data) > length:  # a web server that knows no ranges
            data = data[start : start + length]
        if len(data) < length:
            raise EOFError(f"{len(data)} of {length} bytes from {start} on")
        return data

    def version(self, url: str) -> dict[str, str]:
        """Size and version of a file, as far as its file system tells; empty when it tells no version.

        Files of this machine are so quickly read that theirs is asked for only from 16 MB on.
        """
        filesystem, path = self._found(url)
        facts = filesystem.info(path)
        small = (facts.get("size") or 0) < 2**24
        told = told_version(facts)
        return {} if not told or (small and is_local(url)) else {"size": str(facts.get("size")), **told}

    def retried(self, url: str, action: Callable[[], T], *, settled: bool = False) -> T:
        """What ``action`` gives, at the first attempt that does not fail.

        Args:
            url: The file it reads.
            action: Reads it from the beginning.
            settled: Whether the file was there and whole before, so that it may be so again. If not, a
                missing file, a forbidden one, and a damaged one on this machine are not tried again.

        Raises:
            Exception: that of the last attempt.
        """
        for attempt in range(self.retries + 1):
            try:
                return action()
            except Exception as error:  # each file system raises its own
                final = not settled and _is_final(url, error)
                if final or attempt == self.retries:
                    raise
                wait = min(FIRST_WAIT * 2**attempt, LONGEST_WAIT)
                logger.warning("{}: {}; attempt {} in {:g} s", url, told(error), attempt + 2, wait)
                time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _found(self, url: str) -> tuple[Any, str]:
        check_regular(url)
        filesystem, path = fsspec.core.url_to_fs(url, **client_options(url, self.timeout))
        return filesystem, path


def is_local(url: str) -> bool:
    """Whether a file is on this machine."""
    return "::" not in url and (url.partition("://")[0] in LOCAL or "://" not in url)


def told(error: Exception) -> str:
    """An error in one line; webdataset adds arguments to those of its own."""
    cause = cause_of(error)
    reason = cause.args[0] if cause.args and isinstance(cause.args[0], str) else cause
    return " ".join(f"{type(cause).__name__}: {reason}".split()).rstrip(": ")


def _is_final(url: str, error: Exception) -> bool:
    if is_missing(error) or isinstance(cause_of(error), PermissionError | IsADirectoryError | ImportError):
        return True
    return is_local(url) and isinstance(error, DAMAGE)


def _protocols(filesystem: Any) -> set[str]:
    names = filesystem.protocol
    return {names} if isinstance(names, str) else set(names)
