"""Weight files written by others, read without executing anything in them.

Formats are told by content, never by name:

* safetensors (its README describes the format);
* ``torch.save`` in the zip container, torch 1.6 and later: ``.pth``, ``.pt``, ``.bin``, ``.ckpt``;
* ``torch.save`` in the container before that.

Pickles are read as data (:mod:`dimo_core.torch_pickle`): classes that are not plain containers or tensors
become :class:`~dimo_core.torch_pickle.Inert` stubs, so that a Lightning checkpoint needs no Lightning, and a
hostile file does nothing. Tensors stay in the file until they are asked for (:mod:`dimo_core.stored_tensor`).
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import safetensors.torch
from loguru import logger
from safetensors import SafetensorError
from torch import Tensor

from dimo_core.cache import file_sha256, local_copy
from dimo_core.errors import CheckpointError
from dimo_core.stored_tensor import StoredTensor
from dimo_core.torch_file import LEGACY, RESAVE, ZIP, read_torch
from dimo_core.torch_pickle import Inert

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
        tree: Its content: dicts, lists, numbers, text; tensors as
            :class:`~dimo_core.stored_tensor.StoredTensor` (from safetensors: as tensors); objects of other
            classes as :class:`~dimo_core.torch_pickle.Inert`.
        inert: Dotted names of the classes and functions that it asked for and did not get.
    """

    source: str
    path: Path
    tree: Any
    inert: tuple[str, ...]

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
        so. Tensors are on the CPU, and share memory where they did when they were saved; only they are read
        from the file.

        Raises:
            CheckpointError: there is none, something in it is no tensor, or the file is damaged.
        """
        read: dict[Any, Tensor] = {}
        return {
            name: tensor.load(read) if isinstance(tensor, StoredTensor) else tensor
            for name, tensor in self._named().items()
        }

    def _named(self) -> dict[str, StoredTensor | Tensor]:
        place, found = _weights(self.tree)
        if found is None:
            raise CheckpointError(f"{self.source} holds no weights. {_description(self.tree)}")
        named = {key: value for key, value in found.items() if isinstance(value, StoredTensor | Tensor)}
        if others := [f"{key!r} ({_kind(value)})" for key, value in found.items() if key not in named]:
            raise CheckpointError(
                f"{self.source}: beside {len(named)} tensors {place or 'it'} holds what is none: "
                f"{_listed(others)}. {RESAVE}"
            )
        if others := [repr(key) for key in named if not isinstance(key, str)]:
            raise CheckpointError(f"{self.source}: names of tensors that are no text: {_listed(others)}")
        logger.debug("{}: {} tensors from {}", self.source, len(named), place or "the top level")
        while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in named)), ""):
            named = {key.removeprefix(prefix): value for key, value in named.items()}
        return named


def read_foreign(url: str) -> ForeignFile:
    """Read a weight file of somebody else; nothing in it is executed, and nothing imported for it.

    Args:
        url: Path or fsspec URL; remote files go through the cache (:func:`~dimo_core.cache.local_copy`).

    Raises:
        CheckpointError: it cannot be fetched, is damaged, or of a format that is not read.
    """
    path = local_copy(url)
    with path.open("rb") as file:
        head = file.read(32)
    inert: tuple[str, ...] = ()
    if head.startswith((ZIP, LEGACY)):
        tree, inert = read_torch(path)
    elif head[8:9] == b"{" and int.from_bytes(head[:8], "little") + 8 <= path.stat().st_size:
        tree = _read_safetensors(path)
    else:
        kind = next((text for start, text in STRANGERS.items() if head.lstrip().startswith(start)), "")
        raise CheckpointError(
            f"{url} is neither safetensors nor a file of torch.save. "
            + (f"It looks like {kind}" if kind else f"It begins with {head[:16]!r}.")
        )
    if inert:
        logger.info("{}: its classes and functions were not loaded: {}", url, _listed(list(inert)))
    return ForeignFile(source=url, path=path, tree=tree, inert=inert)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(safetensors.torch.load_file(path))
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is a damaged safetensors file: {error}") from error


def _entries(node: Any) -> Mapping[Any, Any] | None:
    """A dictionary, also one of a class that was not loaded."""
    if isinstance(node, Inert):
        return node.entries or None
    return node if isinstance(node, Mapping) else None


def _weights(tree: Any) -> tuple[str, Mapping[Any, Any] | None]:
    """Where in the tree the weights are, and they; None: there are none."""
    place = ""
    for _ in range(4):  # a hostile tree may contain itself
        entries = _entries(tree) or {}
        inner = next((key for key in WRAPPERS if _entries(entries.get(key))), None)
        if inner is None:
            break
        place, tree = f"{place}.{inner}".lstrip("."), entries[inner]
    found = _entries(tree) or {}
    return place, found if any(isinstance(value, StoredTensor | Tensor) for value in found.values()) else None


def _kind(value: Any) -> str:
    if isinstance(value, Inert):
        return f"an object of {value.path}"
    return type(value).__name__


def _description(tree: Any) -> str:
    if isinstance(tree, Inert):
        return f"It is {_kind(tree)}, pickled whole. {RESAVE}"
    if (entries := _entries(tree)) is None:
        return f"It holds a {type(tree).__name__}. {RESAVE}"
    keys = _listed([f"{key!r} ({_kind(value)})" for key, value in entries.items()])
    return f"Top-level keys: {keys or 'none'}. Looked for tensors there and under {', '.join(WRAPPERS)}."


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:12])
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown
