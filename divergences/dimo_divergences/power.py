"""Amari's alpha-divergence as functions; Hellinger, Pearson and Neyman are scaled members of it.

    D_a(p||q) = (1 - sum p^a q^(1-a)) / (a (1 - a)),    u = -(p/q)^a / a,    a not 0 or 1

With v = p^a q^(1-a) = q (p/q)^a and sum p = sum q = 1 this is [sum (p - q) - sum (v - q) / a] / (1 - a),
whose differences are formed without cancellation. For a in [0, 1] all is bounded. Outside, v overflows:
log(p/q) is clipped to +-limit, and v formed as p r^(a-1) where r > 1, so that a clipped code keeps pulling.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from dimo_core.divergence import log_ratio, project_flux, transport
from dimo_divergences.arithmetic import Real, difference

LARGEST_EXPONENT = 80.0
"""exp of this, summed over any vocabulary, is finite in fp32."""


def limit_of(a: Real, log_ratio_max: Real) -> Real:
    """The limit on abs(log p/q): none for a in [0, 1]."""
    return math.inf if 0 <= a <= 1 else log_ratio_max


def check_limit(a: Real, log_ratio_max: Real) -> None:
    """Make sure that (p/q)^a is finite in fp32 at the limit.

    Raises:
        ValueError: if it is not.
    """
    power = max(abs(a), abs(1 - a))
    if not 0 <= a <= 1 and power * log_ratio_max > LARGEST_EXPONENT:
        raise ValueError(
            f"'log_ratio_max' must be at most {LARGEST_EXPONENT / power:.3g} for alpha {a:g}, "
            f"or (p/q)^alpha overflows in fp32: {log_ratio_max:g}"
        )


def power_value(
    log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"], a: Real, limit: Real
) -> Float[Tensor, "*N"]:
    """D_a(p||q); D_a(p||q) = D_(1-a)(q||p) keeps the division away from 1 - a = 0."""
    if a > 0.5:
        return power_value(log_q, log_p, 1 - a, limit)
    _, _, excess = _moment(log_p, log_q, log_q, a, limit)
    return (difference(log_p, log_q) - excess / a).sum(-1) / (1 - a)


def power_potential(
    log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"], a: Real, limit: Real
) -> Float[Tensor, "*N V"]:
    """u = -((p/q)^a - 1) / a."""
    return -torch.expm1(a * log_ratio(log_p, log_q).clamp(-limit, limit)) / a


def power_grad(
    log_p: Float[Tensor, "*N V"],
    log_q: Float[Tensor, "*N V"],
    log_w: Float[Tensor, "*N V"],
    a: Real,
    limit: Real,
) -> Float[Tensor, "*N V"]:
    """w (u - E_w u) = (w E_w[r^a] - w r^a) / a; for w = q, (q sum v - v) / a.

    Where p and q agree on the likeliest code, w r^a - w is projected, elsewhere w r^a: the result is the
    same, and each avoids the cancellation that the other would suffer.
    """
    gap, power, excess = _moment(log_p, log_q, log_w, a, limit)
    top = log_w.argmax(-1, keepdim=True)
    alike = gap.gather(-1, top).abs() < 1
    return project_flux(log_w, torch.where(alike, excess, power) / -a)


def _moment(
    log_p: Float[Tensor, "*N V"],
    log_q: Float[Tensor, "*N V"],
    log_w: Float[Tensor, "*N V"],
    a: Real,
    limit: Real,
) -> tuple[Float[Tensor, "*N V"], Float[Tensor, "*N V"], Float[Tensor, "*N V"]]:
    """log r^a, w r^a and w r^a - w, with r = p/q clipped; v - q for w = q."""
    log_r = log_ratio(log_p, log_q).clamp(-limit, limit)
    above = transport(log_p, log_q, log_w, log_r) + (a - 1) * log_r
    gap = a * log_r
    log_power = torch.where(log_r > 0, above, log_w + gap)
    return gap, log_power.exp(), difference(log_power, log_w, gap)
