"""How far numbers would move with other samples: 95 % intervals over halves of the samples at hand."""

import math
from collections.abc import Callable, Mapping

import torch

from dimo_core.draws import permutation
from dimo_core.metric import Samples

LEVEL = 0.95
"""Share of the spread that an interval covers."""


def half_sample_intervals(
    judge: Callable[[Samples], Mapping[str, float]],
    samples: Samples,
    numbers: Mapping[str, float],
    *,
    count: int,
    seed: int,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals, metric by metric, without drawing anything anew.

    The metrics are computed on ``count`` random halves of the samples, without replacement. The numbers of a
    half spread about their mean as those of a whole new set of samples would (the delete-half jackknife);
    that mean, which for distances is larger than the number of all samples, is moved to it. Resampling *with*
    replacement would not do: repeated samples are nearest neighbours of themselves, and FID would grow. The
    halves are the same for all rows. The reference is not resampled.

    Args:
        judge: Computes the numbers of some samples.
        samples: With their features.
        numbers: Those of all samples.
        count: How many halves.
        seed: Chooses the halves.

    Returns:
        Low and high, for each number that is finite on all halves.
    """
    size = len(samples) // 2
    rows = [permutation(seed, i, len(samples), "interval")[:size] for i in range(count)]
    halves = [judge(samples.take(half)) for half in rows]
    edges = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    intervals = {}
    for name, middle in numbers.items():
        values = [half.get(name, math.nan) for half in halves]
        if all(map(math.isfinite, [*values, middle])):
            spread = torch.tensor(values, dtype=torch.float64)
            low, high = (torch.quantile(spread, edges) - spread.mean() + middle).tolist()
            intervals[name] = (low, high)
    return intervals
