"""Weight files written by others, read without executing anything in them.

Formats are told by content, never by name:

* safetensors (its README describes the format);
* ``torch.save`` in the zip container, torch 1.6 and later: ``.pth``, ``.pt``, ``.bin``, ``.ckpt``;
* ``torch.save`` in the container before that: five pickles, then storages;
* an index of shards (``model.safetensors.index.json``), each of one of these formats.

Their pickles are read by a machine that can run nothing (:mod:`dimo_core.files.inert`): all but plain data
become :class:`~dimo_core.files.inert.Inert` objects, so that a Lightning checkpoint needs no Lightning, and a
hostile file does nothing. Tensors are made of those afterwards, of the weights only, as checked views of the
file, which is mapped into memory: bytes are read when they are used.
"""

import mmap
import re
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, reduce
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
from dimo_core.files.inert import KNOWN, Machine, Storage, built
from dimo_core.files.weight_files import refuse_a_shard, shards, split_key
from dimo_core.files.weight_sets import RESAVE, description, entries, found_weights, key_name, kind, listed
from dimo_core.files.weights import PREFIXES, read_tensors, sha256

ZIP = b"PK\x03\x04"
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of the containers; the second is a pickle of the number 0x1950a86a20f9469cfc6c."""

INNER = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What ``torch.compile``, FSDP and checkpointing put into the names of the part that they wrap."""

_INNER = rf"(?<![^.])({'|'.join(map(re.escape, INNER))})"

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
        key: The set of weights that was asked for (``FILE::key``); empty for the first that there is.
        parts: The shards, where the file is an index of some.
    """

    source: str
    path: Path
    inert: tuple[str, ...] = ()
    tree: Any = attrs.field(default=None, repr=False)
    storages: Mapping[str, Storage] = attrs.field(factory=dict, repr=False)
    key: str = ""
    parts: tuple[Path, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """Digest of the file; of all digests and the key, where there are shards or a key."""
        own, *others = (file_sha256(path) for path in (self.path, *self.parts))
        return sha256(" ".join([own, *others, self.key]).encode()) if others or self.key else own

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each of the weights; none of them is read.

        Raises:
            CheckpointError: as ``state_dict``.
        """
        return {name: tuple(tensor.shape) for name, tensor in self._named.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """The weights in it, by name.

        They are the set that ``key`` names: under this key, or else the tensors whose names begin with it
        and a dot. Without a key they are the state dict under the first of ``WRAPPERS`` that is there, or
        else the file itself, and the log says so where there are others, such as an average. A wrapper may
        hold another one. What trainers put before all names (``PREFIXES``) or into them (``INNER``) goes.
        Tensors are on the CPU, without gradient, and share memory where they did when they were saved; what
        is written to them does not reach the file.

        Raises:
            CheckpointError: there is none, something in it is no tensor, or the file is damaged.
        """
        self._check(self._named.values())
        return dict(self._named)

    def sequence(self, *keys: str) -> list[Tensor] | None:
        """The tensors of a list without names, such as ``ema``, ``shadow_params`` of torch_ema.

        Args:
            keys: A key at the top, one within, and so on.

        Returns:
            None where there is no list.

        Raises:
            CheckpointError: it holds what is no tensor, or is damaged.
        """
        node = reduce(lambda inner, key: entries(inner).get(key), keys, self.tree)
        if not isinstance(node, list):
            return None
        with _explained(self.path):
            found = [built(item) for item in node]
        if strange := [kind(item) for item in found if not isinstance(item, Tensor)]:
            raise CheckpointError(f"{self.source}: in {'.'.join(keys)} is what is no tensor: {strange[0]}")
        self._check(found)
        return found

    def _check(self, tensors: Iterable[Tensor]) -> None:
        """Compare the checksums of what tensors look at."""
        used = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        for key, storage in self.storages.items():
            if storage.crc and storage.flat.data_ptr() in used:
                if storage.crc != zlib.crc32(storage.flat.numpy().data):
                    raise CheckpointError(f"{self.path} is damaged: the checksum of storage {key!r} differs.")
                storage.crc = 0  # what is written to it from now on is no damage

    @cached_property
    def _named(self) -> dict[str, Tensor]:
        with _explained(self.path):
            place, found, beside = found_weights(self.tree, self.key)
            found = {key: built(value) for key, value in found.items()}
        if beside and not self.key:
            logger.warning(
                "{}: several sets of weights: {!r} is taken, and there is {} too; name another as {}::{}",
                *(self.source, place, ", ".join(map(repr, beside)), self.source, beside[0]),
            )
        named = {key: value for key, value in found.items() if isinstance(value, Tensor)}
        others = [f"{key_name(key)} ({kind(value)})" for key, value in found.items() if key not in named]
        if not named:
            wanted = f"no set of weights {self.key!r}" if self.key else "no weights"
            raise CheckpointError(f"{self.source} holds {wanted}. {description(self.tree)}")
        if others:
            raise CheckpointError(
                f"{self.source}: beside {len(named)} tensors {place or 'it'} holds what is none: "
                f"{listed(others)}. {RESAVE}"
            )
        if others := [key_name(key) for key in named if not isinstance(key, str)]:
            raise CheckpointError(f"{self.source}: names of tensors that are no text: {listed(others)}")
        logger.debug("{}: {} tensors from {}", self.source, len(named), place or "the top level")
        plain = {re.sub(_INNER, "", key): value for key, value in named.items()}
        named = plain if len(plain) == len(named) else named
        while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in named)), ""):
            named = {key.removeprefix(prefix): value for key, value in named.items()}
        return named


def read_foreign(url: str) -> ForeignFile:
    """Read a weight file of somebody else; nothing in it is executed, and nothing imported for it.

    Args:
        url: Path or fsspec URL; remote files go through the cache (``files.cache.local_copy``). An index of
            shards stands for all of them, and ``FILE::key`` for one of several sets of weights.

    Raises:
        CheckpointError: it cannot be fetched, is damaged, or of a format that is not read.
    """
    file, key = split_key(url)
    refuse_a_shard(file)
    places = shards(file)
    return attrs.evolve(_read(file) if places is None else _read_shards(file, places), key=key)


def _read(url: str) -> ForeignFile:
    path = local_copy(url)
    with path.open("rb") as file:
        head = file.read(32)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") + 8 <= path.stat().st_size:
        return ForeignFile(url, path, tree=read_tensors(Folder(path.parent), path.name, cached=True))
    if not head.startswith((ZIP, LEGACY)):
        known = (text for start, text in STRANGERS.items() if head.lstrip().startswith(start))
        kind = next(known, "" if head else "an empty file")
        raise CheckpointError(
            f"{url} is neither safetensors nor a file of torch.save. "
            + (f"It looks like {kind}" if kind else f"It begins with {head[:16]!r}.")
        )
    with _explained(path), path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        machine, tree = (_read_zip if head.startswith(ZIP) else _read_legacy)(path, content)
    if inert := [name for name in machine.asked if name not in KNOWN]:
        logger.info("{}: its classes and functions were not loaded: {}", url, listed(inert))
    return ForeignFile(url, path, tuple(inert), tree, machine.storages)


def _read_shards(url: str, places: Mapping[str, list[str]]) -> ForeignFile:
    """All shards that an index names, as one file."""
    files = {shard: _read(shard) for shard in places}
    tree: dict[Any, Any] = {}
    for shard, names in places.items():
        there = found_weights(files[shard].tree, "")[1]
        if missing := [key_name(name) for name in names if name not in there]:
            raise CheckpointError(
                f"{shard} lacks what its index {url} promises: {listed(missing)}. Fetch both again."
            )
        tree |= {name: there[name] for name in names}
    storages = {f"{shard} {key}": s for shard, file in files.items() for key, s in file.storages.items()}
    inert = tuple(dict.fromkeys(name for file in files.values() for name in file.inert))
    paths = tuple(file.path for file in files.values())
    return ForeignFile(url, local_copy(url), inert, tree, storages, parts=paths)


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
