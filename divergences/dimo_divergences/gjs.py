"""Jensen-Shannon divergence and its generalisation to unequal shares."""

import attrs
from attrs import validators as v
from jaxtyping import Float
from torch import Tensor

from dimo_core.divergence import Divergence, log_ratio, times
from dimo_divergences.arithmetic import log_mixture


@attrs.frozen(kw_only=True)
class GJS(Divergence):
    """Generalised Jensen-Shannon: beta KL(p||m) + (1 - beta) KL(q||m) with m = beta p + (1 - beta) q.

    Bounded by the entropy of (beta, 1 - beta). Its gradient vanishes as beta goes to 0 or 1; divided by
    beta (1 - beta) it goes to that of the forward KL (0) or the reverse KL (1).

    Attributes:
        beta: Share of p in the mixture, between 0 and 1, both excluded.
    """

    beta: float = attrs.field(default=0.5, validator=[v.gt(0), v.lt(1)])

    def value(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N"]:
        """beta KL(p||m) + (1 - beta) KL(q||m)."""
        return _gjs(log_p, log_q, self.beta)

    def potential(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
        """u = (1 - beta) log(q/m)."""
        return -(1 - self.beta) * log_mixture(log_ratio(log_p, log_q), self.beta)


@attrs.frozen(kw_only=True)
class JS(Divergence):
    """Jensen-Shannon: KL(p||m)/2 + KL(q||m)/2 with m = (p + q)/2; at most log 2."""

    def value(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N"]:
        """KL(p||m)/2 + KL(q||m)/2."""
        return _gjs(log_p, log_q, 0.5)

    def potential(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
        """u = log(q/m)/2."""
        return -0.5 * log_mixture(log_ratio(log_p, log_q), 0.5)


def _gjs(log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"], beta: float) -> Float[Tensor, "*N"]:
    """beta KL(p||m) + (1 - beta) KL(q||m)."""
    d = log_ratio(log_p, log_q)
    of_p = times(log_p.exp(), log_mixture(-d, 1 - beta))
    of_q = times(log_q.exp(), log_mixture(d, beta))
    return -(beta * of_p + (1 - beta) * of_q).sum(-1)
