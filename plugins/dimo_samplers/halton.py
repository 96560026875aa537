"""Halton order: sites far from one another first (Besnier et al., ICLR 2025, arXiv 2503.17076)."""

from typing import get_args

import attrs
import torch
from attrs import validators as v
from jaxtyping import Int
from torch import Tensor

from dimo_core.device import transfer
from dimo_core.draws import Draws
from dimo_core.tokens import TokenSpace
from dimo_samplers.ordered import Counts, OrderedSampler


def halton_order(rows: int, columns: int) -> Int[Tensor, " L"]:
    """The cells of a grid, row-major, in the order in which the Halton sequence first meets them.

    Point n = 1, 2, ... lies in row floor(rows phi_2(n)) and column floor(columns phi_3(n)), with phi_b the
    radical inverse. Integers only: no cell hangs on rounding.

    Args:
        rows: Rows of the grid.
        columns: Columns; 1 for tokens without a plane, which gives the van der Corput order.
    """
    a, b = _digits(2, rows), _digits(3, columns)
    n = torch.arange(1, 2**a * 3**b + 1)
    cell = _cell(n, 2, a + 2 * b + 1, rows) * columns + _cell(n, 3, a + b + 1, columns)
    first = torch.full((rows * columns,), len(n)).scatter_reduce(0, cell, n - 1, "amin")
    return first.argsort()


def _digits(base: int, size: int) -> int:
    """Digits d with which each of ``size`` equal parts of [0, 1) holds an interval [k, k + 1) base^-d.

    By the Chinese remainder theorem 2^a 3^b points in a row then meet every cell.
    """
    if size == 1:
        return 0
    digits = 1
    while base**digits < 2 * size:
        digits += 1
    return digits


def _cell(n: Int[Tensor, " N"], base: int, digits: int, size: int) -> Int[Tensor, " N"]:
    """floor(size phi_base(n))."""
    mirrored = torch.zeros_like(n)
    for _ in range(digits):
        mirrored, n = mirrored * base + n % base, n // base
    return (mirrored * size).div(base**digits, rounding_mode="floor")


@attrs.frozen(kw_only=True)
class HaltonSampler(OrderedSampler):
    """Decides sites in the order of the Halton sequence over the grid; one pass a step.

    Attributes:
        roll: Start each sample at a random place of the sequence, and go round.
        schedule: Shape of the schedule.
        counts: Whether the schedule gives each step's share (share: MaskGIT-pytorch v1.0), or the tokens
            still masked after it, rounded to nearest (cumulative), down (amused) or up (halton).
        temperature: Divides the logits.
    """

    roll: bool = False
    counts: Counts = attrs.field(default="halton", validator=v.in_(get_args(Counts)))

    def order(self, space: TokenSpace, draws: Draws) -> Int[Tensor, "B L"]:
        """The same order for every sample, but for where it starts."""
        order = transfer(halton_order(*(space.grid or (space.length, 1))), draws.device)
        start = torch.zeros(draws.count, dtype=torch.long, device=draws.device)
        if self.roll:
            start = draws.integers("roll", space.length)
        place = torch.arange(space.length, device=draws.device) + start[:, None]
        rolled: Tensor = order[place % space.length]
        return rolled
