"""Differences and mixtures of probabilities that are given by their logarithms."""

import math

import torch
from attrs import Attribute
from jaxtyping import Float
from torch import Tensor

from dimo_core.divergence import log_ratio

Real = float | int
"""An option as Python users write it: ``Alpha(alpha=1)`` too."""


def finite(_: object, field: "Attribute[float]", value: Real) -> None:
    """Validate an option that may be any real number.

    Raises:
        ValueError: if it is infinite or NaN.
    """
    if not math.isfinite(value):
        raise ValueError(f"'{field.name}' must be a finite number: {value}")


def difference(
    log_a: Float[Tensor, "*N V"],
    log_b: Float[Tensor, "*N V"],
    gap: Float[Tensor, "*N V"] | None = None,
) -> Float[Tensor, "*N V"]:
    """a - b without cancellation: max(a, b) (1 - exp(-abs(gap))) with the sign of gap = log(a / b).

    Args:
        log_a: log a.
        log_b: log b.
        gap: log(a / b), where it is known more exactly than by subtraction.
    """
    gap = log_ratio(log_a, log_b) if gap is None else gap
    return torch.maximum(log_a, log_b).exp() * -gap.sign() * torch.expm1(-gap.abs())


def log_mixture(d: Float[Tensor, "*N V"], share: Real) -> Float[Tensor, "*N V"]:
    """log(m / q) for the mixture m = share p + (1 - share) q, 0 < share < 1, from d = log(p / q).

    Bounded below by log(1 - share); log(m / p) is ``log_mixture(-d, 1 - share)``.
    """
    excess = share * torch.expm1(d)
    far = d.relu() + torch.log(share * d.clamp(max=0).exp() + (1 - share) * (-d.relu()).exp())
    return torch.where(excess.abs() < 0.5, torch.log1p(excess), far)
