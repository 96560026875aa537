"""Reading and writing weights: safetensors only, matched strictly, with a readable difference."""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from dimo_core.errors import CheckpointError, NumericalError
from dimo_core.files.cache import local_copy
from dimo_core.files.folder import Folder
from dimo_core.files.urls import local_path
from dimo_core.texts import printable

PREFIXES = ("module.", "_orig_mod.", "model.")
"""What ``DistributedDataParallel``, ``torch.compile`` and Lightning put before every name."""

BLOCK = 2**24
"""Bytes of a tensor that are handed on at a time."""


def sha256(data: bytes) -> str:
    """The SHA-256 of some bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def encode_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Tensors as safetensors bytes; the same tensors always give the same bytes."""
    return b"".join(_parts(tensors, metadata))


def digest_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """The SHA-256 of the file that ``write_tensors`` writes, in hex."""
    digest = hashlib.sha256()
    for part in _parts(tensors, metadata):
        digest.update(part)
    return digest.hexdigest()


def write_tensors(
    folder: Folder, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> str:
    """Write a safetensors file, for which no more than one tensor is copied at a time.

    Args:
        folder: Where.
        name: The file.
        tensors: On any device.
        metadata: What else its header holds.

    Returns:
        Its SHA-256, in hex.

    Raises:
        StorageError: when it cannot be written; nothing half-written is left behind.
    """
    digest = hashlib.sha256()

    def seen() -> Iterator[bytes | memoryview]:
        for part in _parts(tensors, metadata):
            digest.update(part)
            yield part

    folder.write(name, seen())
    return digest.hexdigest()


def _parts(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> Iterator[bytes | memoryview]:
    """What safetensors would write, byte for byte: the header, and the tensors in blocks.

    The library makes the header of tensors without elements, so that order, types and metadata are its own;
    shapes and places are put in.
    """
    empty = {name: torch.empty(0, dtype=tensor.dtype) for name, tensor in sorted(tensors.items())}
    data = safetensors.torch.save(empty, metadata=dict(metadata) if metadata else None)
    header = json.loads(data[8:])
    order, end = [name for name in header if name in tensors], 0
    for name in order:
        begin, end = end, end + tensors[name].numel() * tensors[name].element_size()
        header[name] |= {"shape": [*tensors[name].shape], "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        plain = whole(tensors[name].detach()).cpu().contiguous().view(-1)
        yield from (memoryview(block.numpy()) for block in plain.view(torch.uint8).split(BLOCK))


def read_tensors(
    folder: Folder, name: str, digest: str | None = None, cached: bool = False
) -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Args:
        folder: Where it is.
        name: The file.
        digest: Its expected SHA-256.
        cached: Keep a remote file in this machine's cache (``files.cache.local_copy``) instead of reading it
            whole; for weights that do not change. What is on this machine is mapped into memory.

    Raises:
        CheckpointError: when it is missing, damaged, or another file than expected.
    """
    source = folder.path(name)
    try:
        here = cached or local_path(source) is not None
        data = local_copy(source, sha256=digest) if here else folder.read(name)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise CheckpointError(f"no file {source}") from error
    try:
        if isinstance(data, Path):
            return dict(safetensors.torch.load_file(data))
        if digest is not None and sha256(data) != digest:
            raise CheckpointError(
                f"{source} is damaged: its SHA-256 is not the one written down for it. Use another copy."
            )
        return dict(safetensors.torch.load(data))
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{source} is not a safetensors file, or a damaged one: {error}") from error


def assign(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors into a module; names and shapes must agree exactly.

    Where one of ``PREFIXES`` is part of every name in the module and none of them is given, it is put before
    the given ones: whoever reads foreign files takes it off.

    Raises:
        CheckpointError: with a prefix that hides the names, and the missing, unexpected and misshapen ones.
    """
    own = dict(module.state_dict())
    for prefix in PREFIXES:
        if own and all(name.startswith(prefix) for name in own) and own.keys().isdisjoint(tensors):
            tensors = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
    has, given = ({name: t.shape for name, t in named.items()} for named in (own, tensors))
    check_shapes(has, given, source)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(divided(tensors[name], tensor))


def check_shapes(own: Mapping[str, Sequence[int]], offered: Mapping[str, Sequence[int]], source: str) -> None:
    """Whether tensors of these names and shapes are those of a network.

    Args:
        own: The network's.
        offered: The file's.
        source: The file, for messages.

    Raises:
        CheckpointError: with the missing, unexpected and misshapen ones, and a prefix that hides the names.
    """
    has, given = (
        {printable(name, 200): list(shape) for name, shape in named.items()} for named in (own, offered)
    )
    missing = [f"missing: {name} {has[name]}" for name in sorted(has.keys() - given.keys())]
    strange = [f"unexpected: {name} {given[name]}" for name in sorted(given.keys() - has.keys())]
    differ = sorted(name for name in has.keys() & given.keys() if has[name] != given[name])
    shapes = [f"shape: {name} is {given[name]}, the network has {has[name]}" for name in differ]
    if count := len(missing) + len(strange) + len(shapes):
        shown = [one for row in zip_longest(missing, strange, shapes) for one in row if one][:12]
        more = [f"... and {count - 12} more"] if count > 12 else []
        lines = "\n  ".join([*sorted(shown), *more])
        cause = _hidden(has.keys() - given.keys(), given.keys() - has.keys())
        raise CheckpointError(f"{source} does not fit the network{cause} ({count} differences):\n  {lines}")


def divided(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor, divided among processes as another one is; it is whole in each."""
    if not torch.distributed.is_initialized():
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor) or isinstance(tensor, DTensor):
        return tensor
    here = tensor.to(like.device)
    return distribute_tensor(here, like.device_mesh, like.placements, src_data_rank=None)


def here(tensor: Tensor) -> Tensor:
    """What this process has of a tensor that may be divided among processes."""
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local


def whole(tensor: Tensor) -> Tensor:
    """A tensor that was divided among processes, whole; every one of them must ask for it."""
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full


def _hidden(missing: Collection[str], strange: Collection[str]) -> str:
    """What the names that fit have before them, told in a clause; nothing where none fits."""
    found = Counter(
        name[: dot + 1]
        for name in strange
        for dot in (place for place, sign in enumerate(name) if sign == ".")
        if name[dot + 1 :] in missing
    )
    if not found:
        return ""
    prefix, fit = found.most_common(1)[0]
    others = "".join(f", as do others {one!r}" for one in sorted(found.keys() - {prefix})[:3])
    return (
        f": its names carry the prefix {prefix!r}{others}; without it {fit} of {len(missing)} fit. "
        f"Of a file, FILE::{prefix[:-1]} takes these"
    )


def check_finite(name: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not finite: they give tokens, all alike, and numbers that look like others.

    Args:
        name: Whose they are, as people read it.
        tensors: These weights, by name.

    Raises:
        NumericalError: when one of them holds NaN or infinity.
    """
    broken = [key for key, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise NumericalError(
            f"{name}: {len(broken)} tensors of its weights hold NaN or infinity, such as {broken[0]!r}: its "
            "training diverged, or the file is damaged. Take an earlier checkpoint or another copy, or leave "
            "it out."
        )
