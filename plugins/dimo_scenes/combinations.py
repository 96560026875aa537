"""Which combinations training never shows, by rule, and what there is to choose from on either side."""

import functools
from collections.abc import Sequence
from itertools import product
from typing import Literal

import attrs

from dimo_scenes.captions import COLOURS, DIGITS, PLAIN, Caption

Unseen = Literal["phrasing", "colour", "pair"]
"""A combination that training does not show: a digit alone in a phrasing, a digit in a colour, two digits."""


def phrasing_is_held_out(digit: int, phrasing: int) -> bool:
    """Whether training never says this digit, alone and without a colour, so: one of four ways of each."""
    return (digit + phrasing) % len(PLAIN) == 0


def colour_is_held_out(digit: int, colour: int) -> bool:
    """Whether training never shows this digit in this colour: 12 of 60, two digits of each colour."""
    return (digit + colour) % 5 == 0


def pair_is_held_out(first: int, second: int) -> bool:
    """Whether training never shows these two digits together, in any order: 9 of 45."""
    return (first + second) % 5 == 0


def unseen(caption: Caption) -> tuple[Unseen, ...]:
    """The held-out combinations in a caption, one entry for each; empty for a training caption."""
    coloured = zip(caption.digits, caption.colours, strict=False)
    found: list[Unseen] = ["colour" for digit, colour in coloured if colour_is_held_out(digit, colour)]
    if len(caption.digits) == 2 and pair_is_held_out(*caption.digits):
        found.append("pair")
    if caption.tag == "single_object" and phrasing_is_held_out(caption.digits[0], caption.phrasing):
        found.append("phrasing")
    return tuple(found)


@attrs.frozen
class Choices:
    """What captions, and pictures where a caption leaves something open, are drawn from.

    Attributes:
        everything: Whether held-out combinations are among it.
    """

    everything: bool = False

    def phrasings(self, digit: int) -> tuple[int, ...]:
        """Phrasings of a digit alone, its colour left open."""
        return tuple(p for p in range(len(PLAIN)) if self.everything or not phrasing_is_held_out(digit, p))

    def colours(self, digit: int) -> tuple[int, ...]:
        """Colours of a digit."""
        return tuple(c for c in range(len(COLOURS)) if self.everything or not colour_is_held_out(digit, c))

    def two_colours(self, digits: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """Different colours of two digits."""
        first, second = map(self.colours, digits)
        return tuple((a, b) for a in first for b in second if a != b)

    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Two different digits, in either order."""
        return _pairs(self.everything)


@functools.cache
def _pairs(everything: bool) -> tuple[tuple[int, int], ...]:
    both = product(range(len(DIGITS)), repeat=2)
    return tuple((a, b) for a, b in both if a != b and (everything or not pair_is_held_out(a, b)))
