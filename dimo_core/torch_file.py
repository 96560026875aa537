"""Files of ``torch.save``: both containers, with storages that stay in the file until asked for.

The zip container is described in torch's notes on serialization ("Serialized file format for torch.save"):
``<name>/data.pkl`` is the pickle, ``<name>/data/<key>`` the bytes of each storage, ``<name>/byteorder`` their
order. The container before torch 1.6 is written down in ``_legacy_save`` of ``torch/serialization.py`` (2.13)
only: pickles of a magic number, a version, the machine, the object and the keys of its storages; then for
each key the number of elements, in 8 bytes, and its elements.
"""

import struct
import sys
import zipfile
from io import BufferedReader
from pathlib import Path

from dimo_core.errors import CheckpointError
from dimo_core.pickle_scan import scan
from dimo_core.stored_tensor import Storage
from dimo_core.torch_pickle import DAMAGE, Unpickled, unpickle

ZIP = b"PK\x03\x04"
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of the containers; the second is a pickle of the number 0x1950a86a20f9469cfc6c."""

RESAVE = "Where it can be loaded: torch.save(model.state_dict(), 'weights.pth')."


def read_torch(path: Path) -> Unpickled:
    """Read a file of ``torch.save``; no tensor is read yet.

    Raises:
        CheckpointError: it is damaged, of another kind (TorchScript), or of the other byte order.
    """
    with path.open("rb") as file:
        legacy = file.read(len(LEGACY)) == LEGACY
    try:
        return _read_legacy(path) if legacy else _read_zip(path)
    except (*DAMAGE, zipfile.BadZipFile, NotImplementedError, struct.error) as error:
        raise CheckpointError(
            f"{path} is damaged, or no file of torch.save: {type(error).__name__}: {error}. "
            "Nothing of it was executed."
        ) from error


def _read_zip(path: Path) -> Unpickled:
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        records = {record.filename: record for record in archive.infolist()}
        folder = _folder(path, records)
        if sum(record.file_size for record in records.values()) > path.stat().st_size:
            raise ValueError("its records overlap, or are compressed")
        starts: dict[str, int] = {}
        storages: dict[str, Storage] = {}

        def stored(name: str) -> Storage:
            if name not in storages:
                record = records[name]
                if record.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"{name!r} is compressed")
                starts[name] = _start(file, record)
                storages[name] = Storage(path, name, record.file_size, starts, record.CRC)
            return storages[name]

        def storage(key: str, count: int, itemsize: int) -> Storage:
            found = stored(f"{folder}/data/{key}")
            if count * itemsize > found.nbytes:
                raise ValueError(
                    f"storage {key!r} has {found.nbytes} bytes, {count * itemsize} were promised"
                )
            return found

        if (order := f"{folder}/byteorder") in records:
            _check_order(path, stored(order).read() == b"little")
        return unpickle(stored(f"{folder}/data.pkl").read(), storage)


def _folder(path: Path, records: dict[str, zipfile.ZipInfo]) -> str:
    """The folder in the archive that holds everything."""
    folders = [name.removesuffix("/data.pkl") for name in records if name.count("/") == 1]
    folders = [folder for folder in folders if f"{folder}/data.pkl" in records]
    if not folders:
        raise CheckpointError(
            f"{path} is a zip archive, but not one of torch.save: it has no data.pkl. {RESAVE}"
        )
    if f"{folders[0]}/constants.pkl" in records:
        raise CheckpointError(
            f"{path} is a TorchScript archive: a program, not weights. "
            "Where you trust it: torch.save(torch.jit.load(path).state_dict(), 'weights.pth')."
        )
    return folders[0]


def _start(file: BufferedReader, record: zipfile.ZipInfo) -> int:
    """Where the bytes of a record begin: behind its local header, whose length only it knows."""
    file.seek(record.header_offset)
    header = file.read(30)
    if header[:4] != ZIP:
        raise ValueError(f"no record at {record.header_offset}")
    name, extra = struct.unpack("<HH", header[26:30])
    return int(record.header_offset + 30 + name + extra)


def _check_order(path: Path, little: bool) -> None:
    if little != (sys.byteorder == "little"):
        raise CheckpointError(f"{path} was written on a machine with the other byte order. {RESAVE}")


def _read_legacy(path: Path) -> Unpickled:
    starts: dict[str, int] = {}
    storages: dict[str, tuple[Storage, int]] = {}

    def storage(key: str, count: int, itemsize: int) -> Storage:
        found, count_before = storages.setdefault(key, (Storage(path, key, count * itemsize, starts), count))
        if count_before != count or found.nbytes != count * itemsize:
            raise ValueError(f"storage {key!r} has two sizes")
        return found

    with path.open("rb") as file:
        pickles = [_next_pickle(file) for _ in range(5)]
        _, version, machine = (unpickle(data).tree for data in pickles[:3])
        if version != 1001:
            raise ValueError(f"version {version!r}")
        _check_order(path, machine["little_endian"])
        result = unpickle(pickles[3], storage)
        for key in unpickle(pickles[4]).tree:
            (count,) = struct.unpack("<q", file.read(8))
            found, promised = storages[key]
            if count != promised:
                raise ValueError(f"storage {key!r} has {count} elements, {promised} were promised")
            starts[key] = file.tell()
            file.seek(found.nbytes, 1)
    return result


def _next_pickle(file: BufferedReader) -> bytes:
    """The bytes of the pickle that begins here."""
    start = file.tell()
    scan(file)
    end = file.tell()
    file.seek(start)
    return file.read(end - start)
