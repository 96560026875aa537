"""The divergence ``renyi``."""

import attrs
from attrs import validators as v
from dimo_core import Divergence
from torch import Tensor


@attrs.frozen(kw_only=True)
class Renyi(Divergence):
    """log(sum p^a q^(1-a)) / (a - 1), the divergence of order a.

    Attributes:
        order: The order a.
    """

    order: float = attrs.field(default=0.5, validator=[v.gt(0), v.lt(1)])

    def value(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """D(p || q), ``[*N]`` from log-probabilities ``[*N, V]``; autograd gives the gradient."""
        return (self.order * log_p + (1 - self.order) * log_q).logsumexp(-1) / (self.order - 1)
