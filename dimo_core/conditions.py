"""Condition batches: nested dicts, lists and tuples of tensors that share a leading axis B.

The core never looks inside a condition; these operations are all it uses. ``Conditioning`` says what raw ones
look like.
"""

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dimo_core.device import transfer
from dimo_core.errors import UsageError, nearest


@attrs.frozen(kw_only=True)
class Conditioning:
    """What raw conditions look like, so that a source can make them.

    Attributes:
        kind: ``label`` (class indices), ``text`` (prompts), ``none`` (of an unconditional teacher, to which
            the source ``none`` gives the empty text), or a name that teacher and source agree on.
        classes: Names of the classes, for labels.
    """

    kind: str
    classes: tuple[str, ...] = ()

    def label(self, given: object) -> int:
        """The index of the class that is called so (see ``called``).

        Raises:
            UsageError: if none is.
        """
        text, labels = str(given), called(self.classes)
        if text in labels:
            return labels[text]
        if not self.classes and text.isdecimal():
            return int(text)
        count = len(self.classes)
        by_index = f"or an index from 0 to {count - 1}"
        if len(labels) == count:
            by_index = "some names are numbers, so no index will do"
        known = f"Known: {', '.join(self.classes)};" if count <= KNOWN else "Give a name"
        raise UsageError(f"unknown class {text!r}. {known} {by_index}.{nearest(text, self.classes)}")


KINDS = ("label", "text", "none")
"""Kinds of conditions that everybody can read from text; of others their source can."""

KNOWN = 20
"""The most class names that an error lists."""


def called(classes: Sequence[str]) -> dict[str, int]:
    """What classes may be called, and their indices: by name, and by index too.

    Where a class is named by a number that is not its index, no class is called by its index: of classes 1, 2
    and 3, "1" is the first, and "0" is none.
    """
    names = {name: index for index, name in enumerate(classes)}
    if any(name.isdecimal() and name != str(index) for name, index in names.items()):
        return names
    return {str(index): index for index in range(len(classes))} | names


Condition = Any
"""A tensor, or a dict, list or tuple of conditions; every tensor has the leading axis B."""


def tree_map(f: Callable[..., Tensor], tree: Condition, *others: Condition) -> Condition:
    """Apply ``f`` to corresponding tensors of trees of one structure.

    Raises:
        TypeError: on a leaf that is not a tensor.
    """
    if isinstance(tree, Tensor):
        return f(tree, *others)
    if isinstance(tree, dict):
        return {key: tree_map(f, value, *(o[key] for o in others)) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(tree_map(f, *leaves) for leaves in zip(tree, *others, strict=True))
    raise TypeError(f"a condition batch holds tensors in dicts, lists and tuples, not {type(tree).__name__}")


def index(tree: Condition, rows: slice | Int[Tensor, " K"]) -> Condition:
    """The samples ``rows`` of a condition batch."""
    return tree_map(lambda leaf: leaf[rows], tree)


def cat(trees: Sequence[Condition]) -> Condition:
    """Join condition batches along the leading axis."""
    return tree_map(lambda *leaves: torch.cat(leaves), trees[0], *trees[1:])


def to(tree: Condition, device: torch.device | str) -> Condition:
    """Move a condition batch."""
    return tree_map(lambda leaf: transfer(leaf, device), tree)


def where(drop: Bool[Tensor, " B"], null: Condition, c: Condition) -> Condition:
    """Replace the conditions of dropped samples by the null condition."""
    return tree_map(lambda a, b: torch.where(drop.view(-1, *[1] * (b.ndim - 1)), a, b), null, c)


def batch_size(tree: Condition) -> int:
    """The length B of the leading axis."""
    while not isinstance(tree, Tensor):
        tree = next(iter(tree.values())) if isinstance(tree, dict) else tree[0]
    return len(tree)


def from_text(conditioning: Conditioning, given: Sequence[str]) -> list[Any]:
    """Raw conditions from text: of labels the class that is called so, and all else as it is.

    Args:
        conditioning: What the teacher takes.
        given: Class names or indices, prompts, or whatever the teacher reads.

    Raises:
        UsageError: for an unknown class.
    """
    if conditioning.kind != "label":
        return [*given]
    labels = {text: conditioning.label(text) for text in dict.fromkeys(given)}
    return [labels[text] for text in given]
