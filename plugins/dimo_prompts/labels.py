"""Class labels drawn uniformly: ``Labels``."""

import attrs
import torch

from dimo_core.conditions import Conditioning
from dimo_core.draws import stream_seed
from dimo_core.errors import UsageError
from dimo_core.sources import Conditions, ConditionStream

BLOCK = 1024
"""Labels are drawn in blocks of this size, so that any slice of the stream can be read by itself."""


@attrs.frozen(kw_only=True)
class LabelStream(ConditionStream):
    """Independent uniform labels, by position.

    Attributes:
        labels: What is drawn from.
        seed: The seed that fixes every position.
    """

    labels: tuple[int, ...]
    seed: int

    def read(self, start: int, count: int) -> list[int]:
        """The labels at global positions start .. start + count - 1."""
        first, last = start // BLOCK, -(-(start + count) // BLOCK)
        drawn = [label for block in range(first, last) for label in self._block(block)]
        offset = start - first * BLOCK
        return drawn[offset : offset + count]

    def _block(self, index: int) -> list[int]:
        generator = torch.Generator().manual_seed(stream_seed("labels", self.seed, index))
        chosen: list[int] = torch.randint(len(self.labels), (BLOCK,), generator=generator).tolist()
        return [self.labels[i] for i in chosen]


@attrs.frozen(kw_only=True)
class Labels(Conditions):
    """Labels of the teacher's classes, each as likely as the others.

    Attributes:
        classes: Draw from these classes only, given by name or by index; null draws from all of them.
    """

    classes: tuple[int | str, ...] | None = attrs.field(
        default=None, converter=attrs.converters.optional(tuple)
    )

    def open(self, conditioning: Conditioning, *, seed: int) -> LabelStream:
        """Start drawing.

        Raises:
            UsageError: when the teacher takes no labels, or has no class of a name that was given.
        """
        return LabelStream(labels=self.chosen(conditioning), seed=seed)

    def balanced(self, conditioning: Conditioning, count: int) -> list[int]:
        """The classes in turn, ``count`` labels in all.

        Raises:
            UsageError: as ``open`` does.
        """
        labels = self.chosen(conditioning)
        return [labels[i % len(labels)] for i in range(count)]

    def chosen(self, conditioning: Conditioning) -> tuple[int, ...]:
        """The class indices that are drawn from.

        Raises:
            UsageError: as ``open`` does.
        """
        if conditioning.kind != "label" or not conditioning.classes:
            raise UsageError(
                f"conditions 'labels' draws class labels, but the teacher takes {conditioning.kind!r}"
                f" conditions with {len(conditioning.classes)} classes."
                " Choose a source of that kind: --conditions NAME."
            )
        if self.classes is None:
            return tuple(range(len(conditioning.classes)))
        if not self.classes:
            raise UsageError(
                "conditions.classes is empty: name at least one class, or leave it null for all."
            )
        return tuple(dict.fromkeys(self._label(entry, conditioning) for entry in self.classes))

    @staticmethod
    def _label(entry: object, conditioning: Conditioning) -> int:
        try:
            return conditioning.label(entry)
        except UsageError as error:
            raise UsageError(f"conditions.classes: {error}") from error
