"""Triangular discrimination, the bounded symmetric chi-square."""

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from dimo_core.divergence import Divergence, log_ratio
from dimo_divergences.arithmetic import difference


@attrs.frozen(kw_only=True)
class Triangular(Divergence):
    """Symmetric chi-square, sum (p - q)^2 / (p + q): u = (q - p)(q + 3p) / (p + q)^2; at most 2."""

    def value(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N"]:
        """sum (p - q) tanh(d / 2), as (p - q) / (p + q) = tanh(d / 2) for d = log(p/q)."""
        return (difference(log_p, log_q) * torch.tanh(log_ratio(log_p, log_q) / 2)).sum(-1)

    def potential(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
        """u = -tanh(d / 2) (1 + 2 p / (p + q)), with p / (p + q) = sigmoid(d)."""
        d = log_ratio(log_p, log_q)
        return -torch.tanh(d / 2) * (1 + 2 * d.sigmoid())
