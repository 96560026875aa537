"""Files between this machine and a folder anywhere, of any size."""

from collections.abc import Iterator
from pathlib import Path

from dimo_core.files.cache import file_sha256
from dimo_core.files.folder import Folder
from dimo_core.files.urls import local_path
from dimo_core.files.weights import sha256

BLOCK = 2**24
"""Bytes that are in memory at a time."""


def put(folder: Folder, file: Path) -> None:
    """Write a file of this machine into a folder, under its own name."""
    folder.write(file.name, _blocks(file))


def digest(folder: Folder, name: str) -> str:
    """The SHA-256 of a file in a folder, in hex."""
    place = local_path(folder.path(name))
    return sha256(folder.read(name)) if place is None else file_sha256(place)


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while block := opened.read(BLOCK):
            yield block
