"""Total variation."""

import attrs
from jaxtyping import Float
from torch import Tensor

from dimo_core.divergence import Divergence, log_ratio
from dimo_divergences.arithmetic import difference


@attrs.frozen(kw_only=True)
class TV(Divergence):
    """Total variation, sum abs(p - q) / 2: u = sign(q - p) / 2; at most 1, silent on codes with q near 0."""

    def value(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N"]:
        """sum abs(p - q) / 2."""
        return difference(log_p, log_q).abs().sum(-1) / 2

    def potential(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
        """u = sign(q - p) / 2, and 0 at p = q."""
        return log_ratio(log_q, log_p).sign() / 2
