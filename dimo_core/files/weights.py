"""Reading and writing weights: safetensors only, matched strictly, with a readable difference."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from dimo_core.errors import CheckpointError, NumericalError
from dimo_core.files.cache import local_copy
from dimo_core.files.folder import Folder
from dimo_core.texts import printable


def sha256(data: bytes) -> str:
    """The SHA-256 of some bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def encode_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Tensors as safetensors bytes; the same tensors always give the same bytes."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    return safetensors.torch.save(plain, metadata=dict(metadata) if metadata else None)


def read_tensors(
    folder: Folder, name: str, digest: str | None = None, cached: bool = False
) -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Args:
        folder: Where it is.
        name: The file.
        digest: Its expected SHA-256.
        cached: Keep a remote file in this machine's cache (``files.cache.local_copy``), and map
            it into memory instead of reading it whole; for weights that do not change.

    Raises:
        CheckpointError: when it is missing, damaged, or another file than expected.
    """
    source = folder.path(name)
    try:
        data = local_copy(source, sha256=digest) if cached else folder.read(name)
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

    Raises:
        CheckpointError: with the missing, unexpected and misshapen names.
    """
    own = dict(module.state_dict())
    has, given = (
        {printable(name, 200): list(t.shape) for name, t in named.items()} for named in (own, tensors)
    )
    problems = [f"missing: {name} {has[name]}" for name in has.keys() - given.keys()]
    problems += [f"unexpected: {name} {given[name]}" for name in given.keys() - has.keys()]
    differ = (name for name in has.keys() & given.keys() if has[name] != given[name])
    problems += [f"shape: {name} is {given[name]}, the network has {has[name]}" for name in differ]
    if problems:
        more = [f"... and {len(problems) - 12} more"] if len(problems) > 12 else []
        shown = "\n  ".join([*sorted(problems)[:12], *more])
        raise CheckpointError(f"{source} does not fit the network ({len(problems)} differences):\n  {shown}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def check_finite(name: str, network: nn.Module) -> None:
    """Refuse weights that are not finite: they give tokens, all alike, and numbers that look like others.

    Raises:
        NumericalError: when a parameter holds NaN or infinity.
    """
    broken = [key for key, p in network.named_parameters() if not p.isfinite().all()]
    if broken:
        raise NumericalError(
            f"{name}: {len(broken)} tensors of its weights hold NaN or infinity, such as {broken[0]!r}: its "
            "training diverged. Take an earlier checkpoint, or leave it out."
        )
