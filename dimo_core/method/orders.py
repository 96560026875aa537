"""In which order sites are decided: those far from one another first."""

from functools import cache

import torch
from jaxtyping import Int
from torch import Tensor

from dimo_core.device import transfer
from dimo_core.draws import Draws
from dimo_core.tokens import TokenSpace


def halton_sites(space: TokenSpace, first: int = 1) -> Int[Tensor, " L"]:
    """All sites in Halton order (Besnier et al., ICLR 2025, arXiv 2503.17076).

    Tokens without a plane are met in van der Corput order: from point 0, every 4th of 64 first, then those
    half-way between them, and so on, as in dilated unmasking (arXiv 2506.19037). Of several codes at a place,
    all first ones come before all second ones.

    Args:
        space: The tokens.
        first: As in ``halton_order``.
    """
    cells = halton_order(*_plane(space), first)
    return (cells * space.group + torch.arange(space.group, device=cells.device)[:, None]).flatten()


def halton_places(space: TokenSpace, draws: Draws) -> Int[Tensor, "B L"]:
    """The place 0 .. L-1 of each site in Halton order, from point 0, shifted at random round the plane.

    Args:
        space: The tokens.
        draws: Random numbers, for a shift of each sample.
    """
    rows, columns = _plane(space)
    place = transfer(halton_sites(space, 0).argsort(), draws.device)
    site = torch.arange(space.length, device=draws.device)
    cell = site // space.group
    shift = draws.integers("halton", rows * columns)[:, None]
    row = (cell // columns + shift // columns) % rows
    column = (cell + shift) % columns
    found: Tensor = place[(row * columns + column) * space.group + site % space.group]
    return found


def _plane(space: TokenSpace) -> tuple[int, int]:
    """Its rows and columns; one column for tokens without a plane."""
    return space.grid or (space.length // space.group, 1)


@cache
def halton_order(rows: int, columns: int, first: int = 1) -> Int[Tensor, " N"]:
    """The cells of a grid, row-major, in the order in which the Halton sequence first meets them.

    Point n lies in row floor(rows phi_2(n)) and column floor(columns phi_3(n)), with phi_b the
    radical inverse. Integers only: no cell hangs on rounding.

    Args:
        rows: Rows of the grid.
        columns: Columns; 1 for tokens without a plane, which gives the van der Corput order.
        first: The first point; 1 as published, or 0, which lies in the first row and column.
    """
    a, b = _digits(2, rows), _digits(3, columns)
    n = torch.arange(first, 2**a * 3**b + first, device="cpu")
    cell = _cell(n, 2, a + 2 * b + 1, rows) * columns + _cell(n, 3, a + b + 1, columns)
    met = n.new_full((rows * columns,), len(n)).scatter_reduce(0, cell, n - first, "amin")
    return met.argsort()


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
