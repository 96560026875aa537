"""Numbers as a table shows them."""

import math
from collections.abc import Sequence

DECIMALS = ((0.1, 5), (10, 3), (100, 2), (1000, 1), (math.inf, 0))
"""Digits after the point, by the largest magnitude of a column."""


def aligned(values: Sequence[float | None], decimals: int | None = None) -> tuple[str, ...]:
    """Numbers with the same decimals: three or four digits of the largest; a missing value is a hyphen.

    Args:
        values: Numbers of one column.
        decimals: Digits after the point; chosen from the largest magnitude when None.
    """
    if decimals is None:
        largest = max((abs(v) for v in values if v is not None and math.isfinite(v)), default=0.0)
        decimals = next(d for limit, d in DECIMALS if largest < limit)
    return tuple("-" if v is None else f"{v:.{decimals}f}" for v in values)


def fine_decimals(values: Sequence[float]) -> int:
    """So many decimals that the smallest positive number has two digits: for ratios over a whole column."""
    smallest = min((v for v in values if v > 0), default=1.0)
    return max(1 - math.floor(math.log10(smallest)), 0)


def shortened(count: int) -> str:
    """A large count as people say it, such as 1.87 M; zero is a hyphen."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count) if count else "-"
