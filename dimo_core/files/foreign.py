"""Weight files written by others, read without executing anything in them.

Formats are told by content, never by name:

* safetensors (its README describes the format);
* ``torch.save`` in the zip container, torch 1.6 and later: ``.pth``, ``.pt``, ``.bin``, ``.ckpt``;
* ``torch.save`` in the container before that: five pickles, then storages.

Their pickles are read by a machine that can run nothing (:mod:`dimo_core.files.inert`): all but plain data
become :class:`~dimo_core.files.inert.Inert` objects, so that a Lightning checkpoint needs no Lightning, and a
hostile file does nothing. Tensors are made of those afterwards, of the weights only, as checked views of the
file, which is mapped into memory: bytes are read when they are used.
"""

import mmap
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from struct import unpack_from
from typing import Any

import attrs
import torch
from loguru import logger
from torch import Tensor

from dimo_core.errors import CheckpointError
from dimo_core.files.cache import file_sha256, local_copy
from dimo_core.files.folder import Folder
from dimo_core.files.inert import KNOWN, Inert, Machine, Storage, built
from dimo_core.files.weights import read_tensors

ZIP = b"PK\x03\x04"
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of the containers; the second is a pickle of the number 0x1950a86a20f9469cfc6c."""

RESAVE = "Where it can be loaded: torch.save(model.state_dict(), 'weights.pth')."

WRAPPERS = ("model_state_dict", "state_dict", "model", "module", "network", "net", "weights")
"""Keys under which trainers put the weights, in the order in which they are looked for."""

PREFIXES = ("module.", "_orig_mod.")
"""What ``DistributedDataParallel`` and ``torch.compile`` put before every name."""

STRANGERS = {
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself (git lfs pull)",
    b"<": "a web page; the address wants a login, or another link leads to the file",
    b"\x80": f"a pickle, but not one of torch.save. {RESAVE}",
}
"""Other files that come by such names, by their first bytes."""


@attrs.frozen(eq=False, slots=False)
class ForeignFile:
    """What a foreign file holds.

    Attributes:
        source: Path or URL it was read from.
        path: The file, or its local copy.
        inert: Dotted names of the classes and functions that it asked for and did not get.
        tree: Its content: plain data, and :class:`~dimo_core.files.inert.Inert` objects for all else.
        storages: What the tensors described in the tree look at, by key.
    """

    source: str
    path: Path
    inert: tuple[str, ...] = ()
    tree: Any = attrs.field(default=None, repr=False)
    storages: Mapping[str, Storage] = attrs.field(factory=dict, repr=False)

    @cached_property
    def sha256(self) -> str:
        """Digest of the file."""
        return file_sha256(self.path)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each of the weights; none of them is read.

        Raises:
            CheckpointError: as ``state_dict``.
        """
        return {name: tuple(tensor.shape) for name, tensor in self._named.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """The weights in it, by name.

        They are the state dict under the first of ``WRAPPERS`` that is there, or else the file itself. A
        wrapper may hold another one. ``module.`` and ``_orig_mod.`` are taken off where every name begins
        so. Tensors are on the CPU, without gradient, and share memory where they did when they were saved;
        what is written to them does not reach the file.

        Raises:
            CheckpointError: there is none, something in it is no tensor, or the file is damaged.
        """
        used = {tensor.untyped_storage().data_ptr() for tensor in self._named.values()}
        for key, storage in self.storages.items():
            if storage.crc and storage.flat.data_ptr() in used:
                if storage.crc != zlib.crc32(storage.flat.numpy().data):
                    raise CheckpointError(f"{self.path} is damaged: the checksum of storage {key!r} differs.")
                storage.crc = 0  # what is written to it from now on is no damage
        return dict(self._named)

    @cached_property
    def _named(self) -> dict[str, Tensor]:
        with _explained(self.path):
            place, found = "", _entries(self.tree)
            for _ in range(4):  # a hostile tree may contain itself
                if (inner := next((key for key in WRAPPERS if _entries(found.get(key))), None)) is None:
                    break
                place, found = f"{place}.{inner}".lstrip("."), _entries(found[inner])
            found = {key: built(value) for key, value in found.items()}
        named = {key: value for key, value in found.items() if isinstance(value, Tensor)}
        others = [f"{_name(key)} ({_kind(value)})" for key, value in found.items() if key not in named]
        if not named:
            raise CheckpointError(f"{self.source} holds no weights. {_description(self.tree)}")
        if others:
            raise CheckpointError(
                f"{self.source}: beside {len(named)} tensors {place or 'it'} holds what is none: "
                f"{_listed(others)}. {RESAVE}"
            )
        if others := [_name(key) for key in named if not isinstance(key, str)]:
            raise CheckpointError(f"{self.source}: names of tensors that are no text: {_listed(others)}")
        logger.debug("{}: {} tensors from {}", self.source, len(named), place or "the top level")
        while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in named)), ""):
            named = {key.removeprefix(prefix): value for key, value in named.items()}
        return named


def read_foreign(url: str) -> ForeignFile:
    """Read a weight file of somebody else; nothing in it is executed, and nothing imported for it.

    Args:
        url: Path or fsspec URL; remote files go through the cache (``files.cache.local_copy``).

    Raises:
        CheckpointError: it cannot be fetched, is damaged, or of a format that is not read.
    """
    path = local_copy(url)
    with path.open("rb") as file:
        head = file.read(32)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") + 8 <= path.stat().st_size:
        return ForeignFile(url, path, tree=read_tensors(Folder(path.parent), path.name, cached=True))
    if not head.startswith((ZIP, LEGACY)):
        kind = next((text for start, text in STRANGERS.items() if head.lstrip().startswith(start)), "")
        raise CheckpointError(
            f"{url} is neither safetensors nor a file of torch.save. "
            + (f"It looks like {kind}" if kind else f"It begins with {head[:16]!r}.")
        )
    with _explained(path), path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        machine, tree = (_read_zip if head.startswith(ZIP) else _read_legacy)(path, content)
    if inert := [name for name in machine.asked if name not in KNOWN]:
        logger.info("{}: its classes and functions were not loaded: {}", url, _listed(inert))
    return ForeignFile(url, path, tuple(inert), tree, machine.storages)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Whatever goes wrong becomes one line: the file decides what that is."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        told = str(error).partition("\n")[0][:300]
        raise CheckpointError(
            f"{path} is damaged, or no file of torch.save: {type(error).__name__}: {told}. "
            "Nothing of it was executed."
        ) from error


def _read_zip(path: Path, content: mmap.mmap) -> tuple[Machine, Any]:
    with zipfile.ZipFile(path) as archive:
        records = {record.filename.partition("/")[2]: record for record in archive.infolist()}
    if {"code", "constants.pkl"} & {name.partition("/")[0] for name in records}:
        raise CheckpointError(
            f"{path} is a TorchScript archive: a program, not weights. "
            "Where you trust it: torch.save(torch.jit.load(path).state_dict(), 'weights.pth')."
        )
    if "data.pkl" not in records:
        raise CheckpointError(
            f"{path} is a zip archive, but not one of torch.save: it has no data.pkl. {RESAVE}"
        )
    if bad := [record for record in records.values() if record.compress_type or record.flag_bits & 1]:
        raise ValueError(f"{bad[0].filename!r} is compressed or encrypted")
    if sum(record.file_size for record in records.values()) > len(content):
        raise ValueError("its records overlap")

    def start(record: zipfile.ZipInfo) -> int:
        name, extra = unpack_from("<HH", content, record.header_offset + 26)
        return record.header_offset + 30 + int(name) + int(extra)

    if order := records.get("byteorder"):
        _check_order(path, content[start(order) : start(order) + order.file_size].decode())
    content.seek(start(records["data.pkl"]))
    machine = Machine(content)
    tree = machine.load()
    for key, storage in machine.storages.items():
        record = records[f"data/{key}"]
        _find(storage, key, content, start(record), record.file_size)
        storage.crc = record.CRC if record.file_size == storage.flat.nbytes else 0
    return machine, tree


def _read_legacy(path: Path, content: mmap.mmap) -> tuple[Machine, Any]:
    """Five pickles, one after another, and the storages that the last one names, each after its length."""
    machines = [Machine(content) for _ in range(5)]
    _, _, written, tree, keys = [machine.load() for machine in machines]
    _check_order(path, "little" if written["little_endian"] else "big")
    storages = machines[3].storages
    for key in keys:
        size = int.from_bytes(content.read(8), "little") * storages[key].dtype.itemsize
        _find(storages[key], key, content, content.tell(), size)
        content.seek(size, 1)
    if missing := storages.keys() - set(keys):
        raise ValueError(f"it has no storage {min(missing)!r}")
    return machines[3], tree


def _find(storage: Storage, key: str, content: mmap.mmap, start: int, size: int) -> None:
    """Let a storage look at its bytes, of which the file has ``size``."""
    nbytes = storage.count * storage.dtype.itemsize
    if nbytes > min(size, len(content) - start):
        raise ValueError(f"storage {key!r} has {size} bytes, {nbytes} were promised")
    if nbytes:
        flat = torch.frombuffer(content, dtype=torch.uint8, count=nbytes, offset=start)
        storage.flat = flat.clone() if flat.data_ptr() % 16 else flat


def _check_order(path: Path, order: str) -> None:
    if order != sys.byteorder:
        raise CheckpointError(f"{path} was written on a machine with the other byte order. {RESAVE}")


def _entries(node: Any) -> Mapping[Any, Any]:
    """Those of a dictionary, also of a class that was not loaded; none of anything else."""
    if isinstance(node, Inert):  # Python 2 gave an OrderedDict its pairs
        given = node.arguments[:1] if node.path == "collections.OrderedDict" else ()
        return dict(*given) | node.entries
    return node if isinstance(node, Mapping) else {}


def _name(key: Any) -> str:
    """A key, shortened: it may be anything."""
    short = isinstance(key, int) and key.bit_length() <= 64
    return repr(key)[:200] if short or isinstance(key, str) else f"a {_kind(key)}"


def _kind(value: Any) -> str:
    if isinstance(value, Inert):
        return KNOWN.get(value.path, f"an object of {value.path}")
    return type(value).__name__


def _description(tree: Any) -> str:
    if not isinstance(tree, Mapping) and not _entries(tree):
        strange = isinstance(tree, Inert) and tree.path not in KNOWN
        return f"It {f'is {_kind(tree)}, pickled whole' if strange else f'holds a {_kind(tree)}'}. {RESAVE}"
    keys = _listed([f"{_name(key)} ({_kind(value)})" for key, value in _entries(tree).items()])
    return f"Top-level keys: {keys or 'none'}. Looked for tensors there and under {', '.join(WRAPPERS)}."


def _listed(names: list[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
