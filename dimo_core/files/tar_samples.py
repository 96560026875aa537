"""Samples in tar files, as webdataset writes them: ``tar_samples``."""

import tarfile
from collections.abc import Callable, Iterator
from typing import Any


def tar_samples(
    file: Any, url: str, wanted: Callable[[str], bool] = lambda name: True
) -> Iterator[dict[str, Any]]:
    """The samples of one shard, in their order: contents by ending, and ``__key__``.

    Args:
        file: The tar file, compressed or not, read from its beginning; it need not be seekable.
        url: Its name.
        wanted: Says by name which members are read; the others are empty.

    Raises:
        tarfile.ReadError: for what is no tar file, or where the file was cut off.
        ValueError: when a sample has two members of one name.
    """
    from webdataset.tariterators import group_by_keys

    yield from group_by_keys(_members(file, url, wanted))


def _members(file: Any, url: str, wanted: Callable[[str], bool]) -> Iterator[dict[str, Any]]:
    """The files in a tar file, as webdataset passes them on.

    webdataset's own reader takes a tar file that was cut off between two members for a whole one.
    """
    with tarfile.open(fileobj=file, mode="r|*") as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() and wanted(member.name) else None
            if member.isreg():
                yield {"fname": member.name, "data": content.read() if content else b"", "__url__": url}
            tar.members = []  # type: ignore[attr-defined]  # or all of them would be kept
        if tar.fileobj is None or len(tar.fileobj.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("unexpected end of data")
