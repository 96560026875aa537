"""``Divergence`` (D): compares p_phi and p_psi token by token."""

from abc import ABC
from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor


class Divergence(ABC):
    """Placeholder of the contract; see the issue."""

    def value(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N"]:
        """D(p || q)."""
        raise NotImplementedError

    def grad(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
        """grad_z D."""
        raise NotImplementedError

    def diagnostics(
        self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]
    ) -> Mapping[str, Float[Tensor, ""]]:
        """Scalars for the log."""
        return {}
