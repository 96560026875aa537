"""Samples in tar files, as webdataset writes them: ``tar_samples``."""

import math
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dimo_core import limits


def tar_samples(
    file: Any, url: str, wanted: Callable[[str], bool] = lambda name: True
) -> Iterator[dict[str, Any]]:
    """The samples of one shard, in their order: contents by ending, and ``__key__``.

    Args:
        file: The tar file, compressed or not, read from its beginning; it need not be seekable.
        url: Its name.
        wanted: Says by name which members are read; the others are empty.

    Raises:
        tarfile.ReadError: for what is no tar file, where it was cut off, or a member or its header is
            absurdly large.
        ValueError: when a sample has two members of one name.
    """
    from webdataset.tariterators import group_by_keys

    yield from group_by_keys(_members(file, url, wanted))


def lacking(sample: Mapping[str, Any], wanted: Sequence[str]) -> list[str]:
    """What is wrong with a sample without any of the wanted members: a reason for each sample that is lost.

    A key ends at the first dot of a name: ``cam.1.png`` and ``cam.2.png`` are taken for one sample ``cam``,
    and two are lost.
    """
    names = [name for name in sample if not name.startswith("__")]
    if dotted := [name for name in names if name.rpartition(".")[2] in wanted]:
        key = sample["__key__"]
        return [f"{key}.{name}: keys must have no dots, {key} is taken for the key" for name in dotted]
    there = ", ".join(names[:FEW]) + (", ..." if len(names) > FEW else "")
    return [f"no member {', '.join(wanted)}; there are {there}"]


FEW = 5
"""Members that a reason names."""


class _Archive(tarfile.TarFile):
    """A tar file that reads no header beyond the limit, of whatever kind its parts are."""

    def __init__(self, name: Any, mode: Any, fileobj: Any, **options: Any) -> None:
        self._limited = _Stream(fileobj)
        super().__init__(name, mode, self._limited, **options)

    def next(self) -> tarfile.TarInfo | None:
        self._limited.left = limits.HEADER
        try:
            return super().next()
        finally:
            self._limited.left = math.inf


class _Stream:
    """A stream, of which ``left`` bytes may be read."""

    def __init__(self, file: Any) -> None:
        self._file: Any = file
        self.left: float = math.inf

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int) -> bytes:
        self.left -= size
        if self.left < 0:
            raise tarfile.ReadError(f"the header of a member has more than {limits.HEADER:,} bytes")
        data: bytes = self._file.read(size)
        return data


def _members(file: Any, url: str, wanted: Callable[[str], bool]) -> Iterator[dict[str, Any]]:
    """The files in a tar file, as webdataset passes them on.

    webdataset's own reader takes a tar file that was cut off between two members for a whole one.
    """
    with _Archive.open(fileobj=file, mode="r|*") as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() and wanted(member.name) else None
            if content and member.size > limits.MEMBER:
                raise tarfile.ReadError(
                    f"{member.name!r} has {member.size:,} bytes; {limits.MEMBER:,} is the most"
                )
            if member.isreg():
                yield {"fname": member.name, "data": content.read() if content else b"", "__url__": url}
            tar.members, tar.pax_headers = [], {}  # type: ignore[attr-defined]  # or all would be kept
        if tar.fileobj is None or len(tar.fileobj.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("unexpected end of data")
