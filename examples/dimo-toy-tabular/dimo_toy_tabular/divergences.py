"""Two divergences, each written in the shortest way that dimo accepts."""

import math

import attrs
from jaxtyping import Float
from torch import Tensor

from dimo_core.divergence import Divergence, FDivergence


@attrs.frozen(kw_only=True)
class Bhattacharyya(Divergence):
    """-log sum sqrt(p q); only the value is given, and dimo differentiates it."""

    def value(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N"]:
        """-log sum sqrt(p q), per token."""
        return -((log_p + log_q) / 2).logsumexp(-1)


@attrs.frozen(kw_only=True)
class Perimeter(FDivergence):
    """Sum q f(p/q) with f(r) = sqrt(1 + r^2) - (1 + r) / sqrt 2; only f is given."""

    def f(self, r: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
        """Convex, smooth, and 0 at r = 1."""
        return (1 + r.square()).sqrt() - (1 + r) / math.sqrt(2)
