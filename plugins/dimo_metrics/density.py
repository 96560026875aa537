"""Density and coverage: ``DensityCoverage``."""

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import attrs
import torch
from attrs import validators as v
from jaxtyping import Float
from torch import Tensor

from dimo_core.metric import Metric, Samples
from dimo_core.teacher import Teacher
from dimo_metrics.features import feature_pair

BLOCK_BYTES = 128 * 2**20
"""Size of the largest block of distances; a few copies of it are in memory at a time."""

COLUMNS = 4096
"""Points that are made float64 at a time."""


@attrs.frozen(kw_only=True)
class DensityCoverage(Metric):
    """Density and coverage (Naeem et al. 2020, arXiv 2002.09797), in the features of the chosen extractor.

    Each real point has a ball that reaches to its k-th nearest real neighbour. ``density`` is the mean number
    of balls that a sample lies in, divided by k (about 1 for a perfect model, above it where samples crowd in
    dense regions); ``coverage`` the share of balls that hold at least one sample.

    Attributes:
        neighbours: k.
    """

    better: ClassVar[Mapping[str, Literal["larger", "smaller"]]] = {"density": "larger", "coverage": "larger"}

    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    neighbours: int = attrs.field(default=5, validator=v.gt(0))

    def compute(self, samples: Samples, reference: Samples | None, teacher: Teacher) -> Mapping[str, float]:
        """``density`` and ``coverage``.

        Raises:
            UsageError: without features or a reference, or with no more samples than ``neighbours``.
            NumericalError: when features are not finite.
        """
        features, real = feature_pair("density-coverage", samples, reference, neighbours=self.neighbours)
        density, coverage = density_and_coverage(real, features, self.neighbours)
        return {"density": density, "coverage": coverage}


def density_and_coverage(
    real: Float[Tensor, "M F"], samples: Float[Tensor, "N F"], neighbours: int
) -> tuple[float, float]:
    """Density and coverage of ``samples`` (equations 3 and 4 of the paper); a sample on the rim is outside.

    Args:
        real: Features of the real samples.
        samples: Features of what is judged.
        neighbours: k; the radius of a ball is the distance to the k-th other real point.
    """
    inside, covered = 0, 0
    for block in _blocks(real, max(len(real), len(samples))):
        # The nearest of all is the point itself, at distance 0, and does not count.
        radius = _squared(block, real).kthvalue(neighbours + 1, dim=1).values
        held = (_squared(block, samples) < radius[:, None]).sum(1)
        inside += int(held.sum())
        covered += int((held > 0).sum())
    return inside / (neighbours * len(samples)), covered / len(real)


def _squared(a: Float[Tensor, "A F"], b: Float[Tensor, "B F"]) -> Float[Tensor, "A B"]:
    """Squared distances in float64: by matrix products, whose cancellation float32 would show.

    Roots are never taken: torch's are not rounded alike in all places of a tensor, and would decide ties.
    """
    rows = a.double()
    norms = rows.square().sum(1, keepdim=True)
    parts = (part.double() for part in torch.split(b, COLUMNS))
    return torch.cat(
        [torch.addmm(norms + part.square().sum(1), rows, part.T, alpha=-2) for part in parts], dim=1
    )


def _blocks(points: Float[Tensor, "M F"], others: int) -> Iterator[Float[Tensor, "A F"]]:
    yield from torch.split(points, max(1, BLOCK_BYTES // (8 * others)))
