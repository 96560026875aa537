"""Reverse Kullback-Leibler divergence."""

import attrs
from jaxtyping import Float
from torch import Tensor

from dimo_core.divergence import Divergence, log_ratio, times


@attrs.frozen(kw_only=True)
class RKL(Divergence):
    """Reverse KL(q||p) = sum q log(q/p): u = log(q/p), grad = q (u - RKL); mode seeking, unbounded."""

    def value(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N"]:
        """sum q log(q/p)."""
        return times(log_q.exp(), log_ratio(log_q, log_p)).sum(-1)

    def potential(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
        """u = log(q/p); ``grad`` is q (u - E_q u)."""
        return log_ratio(log_q, log_p)
