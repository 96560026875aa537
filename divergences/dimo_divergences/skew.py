"""Skewed Kullback-Leibler divergences: the second argument is mixed with the first."""

import attrs
import torch
from attrs import validators as v
from jaxtyping import Float
from torch import Tensor

from dimo_core.divergence import Divergence, log_ratio, project, times
from dimo_divergences.arithmetic import log_mixture
from dimo_divergences.fkl import FKL
from dimo_divergences.rkl import RKL


@attrs.frozen(kw_only=True)
class SkewFKL(Divergence):
    """KL(p||m) with m = alpha p + (1 - alpha) q: forward KL whose ratio p/m is at most 1/alpha.

    Attributes:
        alpha: Share of p in the mixture, at least 0 (the forward KL) and below 1.
    """

    alpha: float = attrs.field(default=0.1, validator=[v.ge(0), v.lt(1)])

    def value(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N"]:
        """sum p log(p/m), at most log(1/alpha)."""
        if self.alpha == 0:
            return FKL().value(log_p, log_q)
        log_m_p = log_mixture(log_ratio(log_q, log_p), 1 - self.alpha)
        return -times(log_p.exp(), log_m_p).sum(-1)

    def potential(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
        """u = -(1 - alpha) (p/m - 1)."""
        if self.alpha == 0:
            return FKL().potential(log_p, log_q)
        log_m_p = log_mixture(log_ratio(log_q, log_p), 1 - self.alpha)
        return -(1 - self.alpha) * torch.expm1(-log_m_p)

    @torch.no_grad()
    def student_grad(
        self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"], log_w: Float[Tensor, "*N V"]
    ) -> Float[Tensor, "*N V"]:
        """w (u - E_w u)."""
        if self.alpha == 0:
            return FKL().student_grad(log_p, log_q, log_w)
        return project(log_w, self.potential(log_p, log_q))


@attrs.frozen(kw_only=True)
class SkewRKL(Divergence):
    """KL(q||m) with m = (1 - alpha) p + alpha q: reverse KL that stays finite where p vanishes.

    Attributes:
        alpha: Share of q in the mixture, at least 0 (the reverse KL) and below 1.
    """

    alpha: float = attrs.field(default=0.1, validator=[v.ge(0), v.lt(1)])

    def value(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N"]:
        """sum q log(q/m), at most log(1/alpha)."""
        if self.alpha == 0:
            return RKL().value(log_p, log_q)
        log_m_q = log_mixture(log_ratio(log_p, log_q), 1 - self.alpha)
        return -times(log_q.exp(), log_m_q).sum(-1)

    def potential(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
        """u = log(q/m) - alpha (q/m - 1)."""
        if self.alpha == 0:
            return RKL().potential(log_p, log_q)
        log_m_q = log_mixture(log_ratio(log_p, log_q), 1 - self.alpha)
        return -log_m_q - self.alpha * torch.expm1(-log_m_q)
