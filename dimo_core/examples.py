"""``Examples``: what a teacher is trained with, in memory."""

from typing import Any

import attrs
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from dimo_core.errors import UsageError


@attrs.frozen(kw_only=True, eq=False)
class Examples:
    """What a teacher is trained with, in memory: images, tokens or lines of text, each with its condition.

    Attributes:
        images: ``uint8 [N, C, H, W]``.
        tokens: What is tokens already, in the teacher's own codes, ``[N, L]``.
        lines: Texts, which the teacher makes tokens of.
        labels: Class index of each, where the condition is a label.
        classes: Class names.
        texts: Caption of each, where the condition is text.
        given: Raw condition of each, where it is of another kind.
        details: Other facts of each by name, such as the digit behind a parity label.
    """

    images: UInt8[Tensor, "N C H W"] | None = None
    tokens: Int[Tensor, "N L"] | None = None
    lines: tuple[str, ...] | None = None
    labels: Int[Tensor, " N"] = attrs.field(factory=lambda: torch.zeros(0, dtype=torch.long))
    classes: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    given: tuple[Any, ...] = ()
    details: dict[str, Tensor] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        """Refuse what does not belong together.

        Raises:
            ValueError: when it is of several kinds or none, or not each one has a condition.
        """
        kinds = [name for name in ("images", "tokens", "lines") if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError(
                f"give images, tokens or lines, one of them; got {' and '.join(kinds) or 'none'}"
            )
        for name in ("labels", "texts", "given"):
            if len(each := getattr(self, name)) not in (len(self), 0):
                text = f"{len(each)} {name} for {len(self)} {kinds[0]}: give one for each, or none"
                raise ValueError(text)

    def __len__(self) -> int:
        """How many there are."""
        return len(next(kind for kind in (self.images, self.tokens, self.lines) if kind is not None))

    @property
    def pictures(self) -> UInt8[Tensor, "N C H W"]:
        """The images.

        Raises:
            UsageError: when they are something else.
        """
        if self.images is None:
            what = "tokens" if self.lines is None else "texts"
            raise UsageError(f"these examples are {what}, and images are wanted. Choose other --data.")
        return self.images

    def conditions(self) -> list[Any]:
        """The raw condition of each: what is given, else its caption, else its label.

        Raises:
            UsageError: when there is none.
        """
        if len(self) and not (self.given or self.texts or len(self.labels)):
            raise UsageError("these examples have no conditions: neither labels, nor texts, nor others.")
        return list(self.given or self.texts) or self.labels.tolist()

    def part(self, rows: slice | Int[Tensor, " M"]) -> "Examples":
        """Some of them, without the details."""
        places, parts = torch.arange(len(self))[rows].tolist(), dict[str, Any]()
        for name in ("images", "tokens", "lines", "labels", "texts", "given"):
            value = getattr(self, name)
            if value is not None and len(value):
                parts[name] = value[rows] if isinstance(value, Tensor) else tuple(value[i] for i in places)
        return Examples(classes=self.classes, **parts)
