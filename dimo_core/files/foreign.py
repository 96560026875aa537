"""Weight files written by others, read without executing anything in them.

Formats are told by content, never by name:

* safetensors (its README describes the format);
* ``torch.save`` in the zip container, torch 1.6 and later: ``.pth``, ``.pt``, ``.bin``, ``.ckpt``;
* ``torch.save`` in the container before that.

``torch.load`` reads these two, with a pickle machine that can run nothing (:mod:`dimo_core.files.inert`):
classes that are not plain containers or tensors become :class:`~dimo_core.files.inert.Inert` objects, so
that a Lightning checkpoint needs no Lightning, and a hostile file does nothing. What else ``torch.load``
might do with a file that is not what it seems is kept from happening:

* It would run a TorchScript archive. One is refused before, by the very list of records that ``torch.load``
  looks at; so is an archive with any record that ``torch.save`` does not write.
* It would unpack a tar file that has a file number; it is given a memory map, which has none.
* It would take ``.safetensors`` for what the name says; of such a file it is given no name.
* A compressed record may be huge once it is read, and many records may be the same bytes; both are refused.

Tensors of a zip container are mapped into memory: their bytes are read when they are used. The variable
``TORCH_FORCE_WEIGHTS_ONLY_LOAD`` forbids every pickle machine but torch's own, and with it these formats.
"""

import mmap
import re
import reprlib
import sys
import zipfile
import zlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import torch
from loguru import logger
from torch import Tensor

from dimo_core.errors import CheckpointError
from dimo_core.files.cache import file_sha256, local_copy
from dimo_core.files.folder import Folder
from dimo_core.files.inert import Inert, Reading, Storage
from dimo_core.files.weights import read_tensors

ZIP = b"PK\x03\x04"
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of the containers; the second is a pickle of the number 0x1950a86a20f9469cfc6c."""

RECORDS = re.compile(r"(data\.pkl|byteorder|version|data/.*|\..*)?")
"""Names in a zip container of ``torch.save``."""

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
        tree: Its content: dicts, lists, numbers, text; tensors; objects of other classes as
            :class:`~dimo_core.files.inert.Inert`.
        inert: Dotted names of the classes and functions that it asked for and did not get.
        storages: What its tensors look at, by key; none for safetensors.
    """

    source: str
    path: Path
    tree: Any
    inert: tuple[str, ...]
    storages: Mapping[str, Storage] = attrs.field(repr=False)

    @cached_property
    def sha256(self) -> str:
        """Digest of the file."""
        return file_sha256(self.path)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each of the weights; none of them is read.

        Raises:
            CheckpointError: as ``state_dict``.
        """
        return {name: tuple(tensor.shape) for name, tensor in self._named().items()}

    def state_dict(self) -> dict[str, Tensor]:
        """The weights in it, by name.

        They are the state dict under the first of ``WRAPPERS`` that is there, or else the file itself. A
        wrapper may hold another one. ``module.`` and ``_orig_mod.`` are taken off where every name begins
        so. Tensors are on the CPU, without gradient, and share memory where they did when they were saved;
        what is written to them does not reach the file.

        Raises:
            CheckpointError: there is none, something in it is no tensor, or the file is damaged.
        """
        return dict(self._checked)

    @cached_property
    def _checked(self) -> dict[str, Tensor]:
        named = self._named()
        used = {tensor.untyped_storage().data_ptr() for tensor in named.values()}
        for key, storage in self.storages.items():
            known = storage.crc and storage.flat.data_ptr() in used
            if known and storage.crc != zlib.crc32(storage.flat.numpy().data):
                raise CheckpointError(f"{self.path} is damaged: the checksum of storage {key!r} differs.")
        return named

    def _named(self) -> dict[str, Tensor]:
        place, found = "", _entries(self.tree)
        for _ in range(4):  # a hostile tree may contain itself
            if (inner := next((key for key in WRAPPERS if _entries(found.get(key))), None)) is None:
                break
            place, found = f"{place}.{inner}".lstrip("."), _entries(found[inner])
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
    path, order = local_copy(url), str(sys.byteorder)
    reading = Reading(path.stat().st_size)
    with path.open("rb") as file:
        head = file.read(32)
    try:
        if head.startswith(ZIP):
            tree, order = _read_zip(path, reading)
        elif head.startswith(LEGACY):
            tree, order = _read_legacy(path, reading)
        elif head[8:9] == b"{" and int.from_bytes(head[:8], "little") + 8 <= reading.size:
            tree = read_tensors(Folder(path.parent), path.name, cached=True)
        else:
            kind = next((text for start, text in STRANGERS.items() if head.lstrip().startswith(start)), "")
            raise CheckpointError(
                f"{url} is neither safetensors nor a file of torch.save. "
                + (f"It looks like {kind}" if kind else f"It begins with {head[:16]!r}.")
            )
    except CheckpointError:
        raise
    except Exception as error:  # of any kind: the file decides what goes wrong
        told = str(error).partition("\n")[0][:300]
        raise CheckpointError(
            f"{path} is damaged, or no file of torch.save: {type(error).__name__}: {told}. "
            "Nothing of it was executed."
        ) from error
    if order != sys.byteorder:
        raise CheckpointError(f"{path} was written on a machine with the other byte order. {RESAVE}")
    if reading.inert:
        logger.info("{}: its classes and functions were not loaded: {}", url, _listed([*reading.inert]))
    return ForeignFile(url, path, tree, inert=tuple(reading.inert), storages=reading.storages)


def _read_zip(path: Path, reading: Reading) -> tuple[Any, str]:
    """The content, and the order of bytes."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    reading.records.update({record.filename.partition("/")[2]: record for record in records})
    if "data.pkl" not in reading.records:
        raise CheckpointError(
            f"{path} is a zip archive, but not one of torch.save: it has no data.pkl. {RESAVE}"
        )
    reader = torch._C.PyTorchFileReader(str(path))
    names = [*reading.records, *reader.get_all_records()]
    if strange := next((name for name in names if not RECORDS.fullmatch(name)), ""):
        raise CheckpointError(
            f"{path} is a TorchScript archive, or another with {strange[:99]!r}: a program, not weights. "
            "Where you trust it: torch.save(torch.jit.load(path).state_dict(), 'weights.pth')."
        )
    if bad := [record for record in records if record.compress_type or record.flag_bits & 1]:
        raise ValueError(f"{bad[0].filename!r} is compressed or encrypted")
    if sum(record.file_size for record in records) > reading.size:
        raise ValueError("its records overlap")
    mapped = path.suffix != ".safetensors"  # a path of that name torch would take for what it says
    with path.open("rb") as file:
        tree = reading.load(path if mapped else file, mapped)
    return tree, reader.get_record("byteorder").decode() if "byteorder" in names else sys.byteorder


def _read_legacy(path: Path, reading: Reading) -> tuple[Any, str]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        reading.load(content, mapped=False)
    _, _, machine, tree, keys = reading.pickles
    if missing := reading.storages.keys() - set(keys):
        raise ValueError(f"it has no storage {min(missing)!r}")
    return tree, "little" if machine["little_endian"] else "big"


def _entries(node: Any) -> Mapping[Any, Any]:
    """Those of a dictionary, also of a class that was not loaded; none of anything else."""
    node = node.entries if isinstance(node, Inert) else node
    return node if isinstance(node, Mapping) else {}


def _name(key: Any) -> str:
    """A key, shortened: it may be anything."""
    try:
        return repr(key)[:200] if isinstance(key, str) else reprlib.repr(key)
    except ValueError:  # of an integer of thousands of digits
        return f"a {type(key).__name__}"


def _kind(value: Any) -> str:
    return f"an object of {value.path}" if isinstance(value, Inert) else type(value).__name__


def _description(tree: Any) -> str:
    if not isinstance(tree, Mapping):
        what = f"is {_kind(tree)}, pickled whole" if isinstance(tree, Inert) else f"holds a {_kind(tree)}"
        return f"It {what}. {RESAVE}"
    keys = _listed([f"{_name(key)} ({_kind(value)})" for key, value in tree.items()])
    return f"Top-level keys: {keys or 'none'}. Looked for tensors there and under {', '.join(WRAPPERS)}."


def _listed(names: list[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
