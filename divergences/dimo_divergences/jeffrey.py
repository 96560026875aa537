"""Jeffrey divergence of the Di[M]O paper."""

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from dimo_core.divergence import Divergence
from dimo_divergences.arithmetic import Real, finite
from dimo_divergences.fkl import FKL
from dimo_divergences.rkl import RKL


@attrs.frozen(kw_only=True)
class Jeffrey(Divergence):
    """(1 - beta) FKL + beta RKL for any real beta (the paper's generalised Jeffrey divergence).

    Outside [0, 1] it extrapolates and may be negative.

    Attributes:
        beta: Share of the reverse KL. The paper's best on ImageNet is -0.2; the
            authors' released code runs 0, the forward KL.
    """

    beta: float = attrs.field(default=0.2, validator=finite)

    def value(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N"]:
        """(1 - beta) FKL + beta RKL."""
        return _sum([share * d.value(log_p, log_q) for share, d in self._members()])

    def potential(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
        """u = -(1 - beta) p/q + beta log(q/p)."""
        return _sum([share * d.potential(log_p, log_q) for share, d in self._members()])

    @torch.no_grad()
    def grad(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
        """(1 - beta) (q - p) + beta q (log(q/p) - RKL)."""
        return _sum([share * d.grad(log_p, log_q) for share, d in self._members()])

    @torch.no_grad()
    def student_grad(
        self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"], log_w: Float[Tensor, "*N V"]
    ) -> Float[Tensor, "*N V"]:
        """The same with weights w."""
        return _sum([share * d.student_grad(log_p, log_q, log_w) for share, d in self._members()])

    def _members(self) -> list[tuple[Real, Divergence]]:
        """Shares that are not 0: an infinite reverse KL must not reach the pure forward one."""
        pair: list[tuple[Real, Divergence]] = [(1 - self.beta, FKL()), (self.beta, RKL())]
        return [(share, member) for share, member in pair if share != 0]


def _sum(terms: list[Tensor]) -> Tensor:
    """Sum of one or two tensors."""
    return terms[0] if len(terms) == 1 else terms[0] + terms[1]
