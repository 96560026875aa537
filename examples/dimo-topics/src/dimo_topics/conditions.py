"""The source of conditions ``topics``."""

from collections.abc import Iterable

import attrs
import torch
from attrs import validators as v
from dimo_core.conditions import Conditioning
from dimo_core.draws import stream_seed
from dimo_core.errors import UsageError
from dimo_core.sources import Conditions, ConditionStream

BLOCK = 1024
"""Texts are drawn in blocks of this size, so that any part of the stream can be read by itself."""


def _texts(given: Iterable[str]) -> tuple[str, ...]:
    return tuple(given)


@attrs.frozen(kw_only=True)
class TopicsStream(ConditionStream):
    """Independent draws from some texts, each as likely as the others.

    Attributes:
        texts: The texts.
        seed: Fixes every position.
    """

    texts: tuple[str, ...]
    seed: int

    def read(self, start: int, count: int) -> list[str]:
        """The texts at positions start .. start + count - 1, whatever was read before."""
        first, last = start // BLOCK, -(-(start + count) // BLOCK)
        numbers = [number for block in range(first, last) for number in self._block(block)]
        return [self.texts[number] for number in numbers[start - first * BLOCK :][:count]]

    def _block(self, index: int) -> list[int]:
        seed = stream_seed("topics", self.seed, index)
        generator = torch.Generator().manual_seed(seed)
        numbers: list[int] = torch.randint(len(self.texts), (BLOCK,), generator=generator).tolist()
        return numbers


@attrs.frozen(kw_only=True)
class Topics(Conditions):
    """A few texts, drawn at random.

    Attributes:
        texts: The texts.
    """

    texts: tuple[str, ...] = attrs.field(
        default=("a red seven", "a blue three"), converter=_texts, validator=v.min_len(1)
    )

    def open(self, conditioning: Conditioning, *, seed: int) -> TopicsStream:
        """Start drawing.

        Raises:
            UsageError: when the teacher takes no text.
        """
        self._check(conditioning)
        return TopicsStream(texts=self.texts, seed=seed)

    def balanced(self, conditioning: Conditioning, count: int) -> list[str]:
        """The texts in turn, for evaluation and grids.

        Raises:
            UsageError: when the teacher takes no text.
        """
        self._check(conditioning)
        return [self.texts[i % len(self.texts)] for i in range(count)]

    def _check(self, conditioning: Conditioning) -> None:
        if conditioning.kind != "text":
            raise UsageError(
                f"conditions 'topics' gives texts, but the teacher takes "
                f"{conditioning.kind!r} conditions. Choose a source of that kind: --conditions NAME."
            )
