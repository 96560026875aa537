"""The arithmetic of MAUVE on two histograms (arXiv 2102.01454, 2212.14578), as pure functions.

Clusters of features come from elsewhere: MAUVE's are k-means of a reader's last hidden states.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

SCALE = 5.0
"""c in exp(-c KL)."""

WEIGHTS = 25
"""Mixtures on the curve."""

MARGIN = 1e-6
"""Distance of their weights from 0 and 1."""

Histogram = Float[Tensor, " K"]


def histogram(counts: Int[Tensor, " K"], smoothing: float = 0.0) -> Histogram:
    """Shares of counts, ``smoothing`` added to each: 1/2 makes MAUVE* of MAUVE."""
    smoothed = counts.double() + smoothing
    return smoothed / smoothed.sum()


def divergence_curve(p: Histogram, q: Histogram) -> tuple[Float[Tensor, " W"], Float[Tensor, " W"]]:
    """The points (exp(-c KL(q || r)), exp(-c KL(p || r))), r = w p + (1 - w) q, from (1, 0) to (0, 1).

    Args:
        p: Histogram of the one set.
        q: That of the other.
    """
    w = torch.linspace(MARGIN, 1 - MARGIN, WEIGHTS, dtype=torch.float64)[:, None]
    r = w * p + (1 - w) * q
    x, y = ((-SCALE * _kl(each, r)).exp() for each in (q, p))
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    return torch.cat([one, x, zero]), torch.cat([zero, y, one])


def mauve(p: Histogram, q: Histogram) -> float:
    """Area under the curve by the trapezoid rule, the mean of both orders of its axes: 1 for the same.

    Histograms that are exactly equal are a degenerate case, as all points between the ends coincide.
    """
    x, y = divergence_curve(p, q)
    return float((_area(x, y) + _area(y, x)) / 2)


def frontier_integral(p: Histogram, q: Histogram) -> float:
    """The integral of both divergences along the mixtures: 0 for the same, 1 where nothing is shared."""
    safe_p, safe_q = p.clamp_min(1e-300), q.clamp_min(1e-300)
    apart = torch.where((p - q).abs() > 1e-8, p - q, 1.0)
    both = (p + q) / 4 - p * q * (safe_p.log() - safe_q.log()) / (2 * apart)
    one = torch.where(p == 0, q / 4, torch.where(q == 0, p / 4, both))
    return float(2 * torch.where((p - q).abs() <= 1e-8, 0.0, one).sum())


def _kl(p: Histogram, r: Float[Tensor, "W K"]) -> Float[Tensor, " W"]:
    return (torch.xlogy(p, p) - torch.xlogy(p, r)).sum(1)


def _area(x: Float[Tensor, " W"], y: Float[Tensor, " W"]) -> Float[Tensor, ""]:
    order = x.argsort(stable=True)
    return torch.trapezoid(y[order], x[order])
