"""The source of conditions ``coins``: an endless row of throws, read by position."""

from collections.abc import Sequence

import attrs
import torch
from attrs import validators as v

from dimo_core.conditions import Conditioning
from dimo_core.draws import stream_seed
from dimo_core.errors import UsageError
from dimo_core.sources import Conditions, ConditionStream

BLOCK = 1024
"""Throws are made in blocks of this size, so that any part of the row can be read by itself."""


@attrs.frozen(kw_only=True)
class Throws(ConditionStream):
    """Independent throws of one coin.

    Attributes:
        heads: Probability of heads.
        seed: Fixes every throw.
    """

    heads: float
    seed: int

    def read(self, start: int, count: int) -> list[int]:
        """The throws start .. start + count - 1: 0 for heads, 1 for tails."""
        first, last = start // BLOCK, -(-(start + count) // BLOCK)
        throws = [side for block in range(first, last) for side in self._block(block)]
        return throws[start - first * BLOCK :][:count]

    def _block(self, index: int) -> list[int]:
        generator = torch.Generator().manual_seed(stream_seed("coins", self.seed, index))
        sides: list[int] = (torch.rand(BLOCK, generator=generator) >= self.heads).long().tolist()
        return sides


@attrs.frozen(kw_only=True)
class Coins(Conditions):
    """Heads or tails.

    Attributes:
        heads: Probability of heads.
    """

    heads: float = attrs.field(default=0.5, validator=[v.ge(0), v.le(1)])

    def open(self, conditioning: Conditioning, *, seed: int) -> Throws:
        """Start throwing.

        Raises:
            UsageError: when the teacher takes no coins.
        """
        self._check(conditioning)
        return Throws(heads=self.heads, seed=seed)

    def balanced(self, conditioning: Conditioning, count: int) -> list[int]:
        """Heads and tails in turn.

        Raises:
            UsageError: when the teacher takes no coins.
        """
        self._check(conditioning)
        return [i % 2 for i in range(count)]

    def parse(self, conditioning: Conditioning, given: Sequence[str]) -> list[int]:
        """Heads and tails, or 0 and 1, as the words of a command line say them.

        Raises:
            UsageError: for anything else.
        """
        return [conditioning.label(side) for side in given]

    def _check(self, conditioning: Conditioning) -> None:
        if conditioning.kind != "coin":
            raise UsageError(
                f"conditions 'coins' throws coins, but the teacher takes {conditioning.kind!r} conditions. "
                "Choose a source of that kind: --conditions NAME."
            )
