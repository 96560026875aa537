"""Squared Hellinger distance."""

import math

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from dimo_core.divergence import Divergence
from dimo_divergences.arithmetic import difference
from dimo_divergences.power import power_grad, power_potential


@attrs.frozen(kw_only=True)
class Hellinger(Divergence):
    """Squared Hellinger, sum (sqrt p - sqrt q)^2: u = -sqrt(p/q); at most 2."""

    def value(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N"]:
        """sum (sqrt p - sqrt q)^2."""
        return difference(log_p / 2, log_q / 2).square().sum(-1)

    def potential(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
        """u = -(sqrt(p/q) - 1)."""
        return power_potential(log_p, log_q, 0.5, math.inf) / 2

    @torch.no_grad()
    def student_grad(
        self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"], log_w: Float[Tensor, "*N V"]
    ) -> Float[Tensor, "*N V"]:
        """w E_w sqrt(p/q) - w sqrt(p/q); for w = q, q sum sqrt(p q) - sqrt(p q)."""
        return power_grad(log_p, log_q, log_w, 0.5, math.inf) / 2
