"""Forward Kullback-Leibler divergence."""

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from dimo_core.divergence import Divergence, log_ratio, project_flux, times, transport
from dimo_divergences.arithmetic import difference


@attrs.frozen(kw_only=True)
class FKL(Divergence):
    """Forward KL(p||q) = sum p log(p/q): u = -p/q, grad = q - p; mode covering."""

    def value(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N"]:
        """sum p log(p/q)."""
        return times(log_p.exp(), log_ratio(log_p, log_q)).sum(-1)

    def potential(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
        """u = -p/q."""
        return -log_ratio(log_p, log_q).exp()

    @torch.no_grad()
    def grad(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
        """The difference q - p, each entry between -1 and 1."""
        return project_flux(log_q, difference(log_q, log_p))

    @torch.no_grad()
    def student_grad(
        self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"], log_w: Float[Tensor, "*N V"]
    ) -> Float[Tensor, "*N V"]:
        """w E_w[p/q] - w p/q; infinite where p w/q is."""
        d = log_ratio(log_p, log_q)
        return project_flux(log_w, difference(log_w, transport(log_p, log_q, log_w, d), -d))
