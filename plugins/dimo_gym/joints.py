"""The joint distributions p(x | c): small enough to be written out whole.

Sequences of L codes are counted in base V, the first site being the highest digit; each joint has two
conditions, and is ``float64 [C, V^L]`` with rows that sum to 1.
"""

import math
from collections.abc import Mapping
from typing import Literal

import attrs
import torch
from attrs import validators as v
from jaxtyping import Float, Int
from torch import Tensor

Kind = Literal["table", "markov", "ising", "halves", "aligned"]
Joint = Float[Tensor, "C N"]

CONDITIONS = ("first", "second")
"""Names of the two conditions."""

LARGEST = 2**15
"""The most partly masked sequences, (V + 1)^L, that are enumerated."""


@attrs.frozen(kw_only=True)
class Shape:
    """What a joint is like unless told otherwise.

    Attributes:
        length: L.
        codes: V.
        strength: Of the dependence.
    """

    length: int
    codes: int
    strength: float


SHAPES: Mapping[Kind, Shape] = {
    "table": Shape(length=4, codes=4, strength=3.0),
    "markov": Shape(length=6, codes=3, strength=1.5),
    "ising": Shape(length=9, codes=2, strength=0.5),
    "halves": Shape(length=4, codes=4, strength=math.inf),
    "aligned": Shape(length=4, codes=8, strength=math.inf),
}


@attrs.frozen(kw_only=True)
class Known:
    """Which joint distribution; teacher and data with the same of these have the same one.

    Attributes:
        joint: table: the energy of every sequence is drawn at random. markov: a chain with random
            transitions, of which one from each code is forbidden. ising: two codes on a square grid, whose
            neighbours like to be equal (first condition) or different (second). halves: the second half of
            a sequence repeats the first (first condition), or is one code further (second). aligned: one
            code at all sites, any of them (first condition, as in IMDM's synthetic alignment) or one of the
            lower half (second).
        length: Sites L; null for the joint's own.
        codes: Codes V; null for the joint's own.
        strength: How strong the dependence is, 0 for none (of markov all but the forbidden transitions); null
            for the joint's own. Of halves and aligned, a code is as it should be with probability
            1 - (1 - 1/V) exp(-strength), always at .inf.
        seed: Fixes what is drawn at random.
    """

    joint: Kind = "table"
    length: int | None = attrs.field(default=None, validator=v.optional(v.gt(1)))
    codes: int | None = attrs.field(default=None, validator=v.optional(v.gt(1)))
    strength: float | None = attrs.field(default=None, validator=v.optional(v.ge(0)))
    seed: int = attrs.field(default=0, validator=v.ge(0))

    def __attrs_post_init__(self) -> None:
        """Refuse sizes that cannot be enumerated, or that the joint does not have.

        Raises:
            ValueError: in these cases.
        """
        shape = self.shape
        if (count := (shape.codes + 1) ** shape.length) > LARGEST:
            raise ValueError(
                f"{shape.length} sites of {shape.codes} codes have {count:,} partly masked sequences; "
                f"{LARGEST:,} is the most that is enumerated"
            )
        if self.joint == "ising" and (shape.codes != 2 or math.isqrt(shape.length) ** 2 != shape.length):
            raise ValueError(f"ising has 2 codes on a square grid, not {shape.codes} on {shape.length} sites")
        if self.joint == "halves" and shape.length % 2:
            raise ValueError(f"halves has an even number of sites, not {shape.length}")

    @property
    def shape(self) -> Shape:
        """Sizes and strength, the joint's own where nothing else is asked for."""
        own = SHAPES[self.joint]
        given = {name: getattr(self, name) for name in ("length", "codes", "strength")}
        return attrs.evolve(own, **{name: value for name, value in given.items() if value is not None})

    def p(self) -> Joint:
        """p(x | c)."""
        make = {"table": table, "markov": markov, "ising": ising, "halves": halves, "aligned": aligned}
        return make[self.joint](self.shape, torch.Generator().manual_seed(self.seed))


def sequences(length: int, codes: int) -> Int[Tensor, "N L"]:
    """All sequences, in the order in which they are counted."""
    digits = torch.tensor([codes**i for i in reversed(range(length))], dtype=torch.long)
    return torch.arange(codes**length)[:, None] // digits % codes


def normalised(log_weights: Float[Tensor, "C N"]) -> Joint:
    """Probabilities that are proportional to exp of these; -inf for none."""
    return log_weights.double().softmax(-1)


def table(shape: Shape, generator: torch.Generator) -> Joint:
    """p ~ exp(strength g(x)), g standard normal for each sequence."""
    count = shape.codes**shape.length
    return normalised(shape.strength * torch.randn(2, count, generator=generator, dtype=torch.float64))


def markov(shape: Shape, generator: torch.Generator) -> Joint:
    """A chain that begins uniformly; from code a the code a + 1 + c never follows, modulo V."""
    x, codes = sequences(shape.length, shape.codes), shape.codes
    steps = shape.strength * torch.randn(2, codes, codes, generator=generator, dtype=torch.float64)
    for c in range(2):
        steps[c, torch.arange(codes), (torch.arange(codes) + 1 + c) % codes] = -torch.inf
    steps = steps.log_softmax(-1)
    return normalised(torch.stack([steps[c, x[:, :-1], x[:, 1:]].sum(1) for c in range(2)]))


def ising(shape: Shape, generator: torch.Generator) -> Joint:
    """p ~ exp(+-strength sum of s s' over neighbours), s = +-1, on a grid with open edges."""
    side = math.isqrt(shape.length)
    spin = (2 * sequences(shape.length, 2) - 1).view(-1, side, side).double()
    bonds = (spin[:, 1:] * spin[:, :-1]).sum((1, 2)) + (spin[:, :, 1:] * spin[:, :, :-1]).sum((1, 2))
    return normalised(torch.stack([shape.strength * bonds, -shape.strength * bonds]))


def halves(shape: Shape, generator: torch.Generator) -> Joint:
    """A uniform first half; each code of the second is that of the first plus c, modulo V, or any."""
    x, half, away = sequences(shape.length, shape.codes), shape.length // 2, _away(shape)
    log_p = []
    for c in range(2):
        equal = (x[:, half:] == (x[:, :half] + c) % shape.codes).sum(1).double()
        other = (half - equal) * torch.tensor(away / (shape.codes - 1), dtype=torch.float64).log()
        log_p.append(equal * math.log(1 - away) + torch.where(equal == half, 0.0, other))
    return normalised(torch.stack(log_p))


def aligned(shape: Shape, generator: torch.Generator) -> Joint:
    """One code, repeated at all sites: uniform over all V, or over the first V / 2, rounded up."""
    x, away = sequences(shape.length, shape.codes), _away(shape)
    equal = (x[:, None] == torch.arange(shape.codes)[:, None]).sum(-1).double()
    each = (1 - away) ** equal * (away / (shape.codes - 1)) ** (shape.length - equal)
    some = each[:, : (shape.codes + 1) // 2]
    return torch.stack([each.mean(1), some.mean(1)])


def _away(shape: Shape) -> float:
    """The probability that a code is not the one it should be."""
    return (1 - 1 / shape.codes) * math.exp(-shape.strength)
