"""How far one law is from another, exactly."""

import attrs
import torch
from jaxtyping import Float
from torch import Tensor


@attrs.frozen(kw_only=True)
class Distances:
    """A law q against a true one p, in nats.

    Attributes:
        tv: Half the sum of the absolute differences.
        kl: KL(p || q); infinite where q never draws what p does.
        reverse_kl: KL(q || p); infinite where q draws what p never does.
        outside: What q gives to sequences that p never draws.
    """

    tv: float
    kl: float
    reverse_kl: float
    outside: float


def compared(p: Float[Tensor, " N"], q: Float[Tensor, " N"]) -> Distances:
    """Distances of q from p, both summing to 1."""
    return Distances(
        tv=float((p - q).abs().sum() / 2),
        kl=divergence(p, q),
        reverse_kl=divergence(q, p),
        outside=float(q[p == 0].sum()),
    )


def divergence(p: Float[Tensor, " N"], q: Float[Tensor, " N"]) -> float:
    """KL(p || q); what p never draws counts nothing. Rounding never makes it negative."""
    drawn = p > 0
    return max(0.0, float((p[drawn] * (p[drawn].log() - q[drawn].log())).sum()))


def mean(found: list[Distances]) -> Distances:
    """The mean of each, such as over conditions."""
    names = [field.name for field in attrs.fields(Distances)]
    return Distances(**{name: sum(getattr(one, name) for one in found) / len(found) for name in names})


def histogram_tv(p: Float[Tensor, " N"], samples: int) -> float:
    """About the ``tv`` that a histogram of so many exact samples has: the floor of what is estimated so.

    Half the sum of sqrt(2 p (1 - p) / (pi n)), the mean absolute error of each share by the normal law;
    nearly too large where n p is small.
    """
    return float((2 * p * (1 - p) / (torch.pi * samples)).sqrt().sum() / 2)
