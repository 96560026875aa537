"""Amari's alpha-divergence."""

from collections.abc import Mapping

import attrs
import torch
from attrs import validators as v
from jaxtyping import Float
from torch import Tensor

from dimo_core.divergence import Divergence, clipped_share
from dimo_divergences.arithmetic import finite
from dimo_divergences.fkl import FKL
from dimo_divergences.power import check_limit, limit_of, power_grad, power_potential, power_value
from dimo_divergences.rkl import RKL


@attrs.frozen(kw_only=True)
class Alpha(Divergence):
    """Amari's (1 - sum p^alpha q^(1 - alpha)) / (alpha (1 - alpha)): reverse KL at 0, forward KL at 1.

    At 1/2 it is twice the squared Hellinger distance; bounded by 1 / (alpha (1 - alpha)) between 0 and 1.

    Attributes:
        alpha: Any real number; outside [0, 1] the log-ratio is clipped.
        log_ratio_max: Largest abs(log p/q) outside [0, 1]; not used inside.
    """

    alpha: float = attrs.field(default=0.5, validator=finite)
    log_ratio_max: float = attrs.field(default=20.0, validator=[v.gt(0), finite])

    def __attrs_post_init__(self) -> None:
        """Check that the power cannot overflow.

        Raises:
            ValueError: if it can.
        """
        check_limit(self.alpha, self.log_ratio_max)

    def value(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N"]:
        """(1 - sum p^alpha q^(1 - alpha)) / (alpha (1 - alpha))."""
        if limit := self._limit():
            return limit.value(log_p, log_q)
        return power_value(log_p, log_q, self.alpha, limit_of(self.alpha, self.log_ratio_max))

    def potential(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
        """u = -((p/q)^alpha - 1) / alpha."""
        if limit := self._limit():
            return limit.potential(log_p, log_q)
        return power_potential(log_p, log_q, self.alpha, limit_of(self.alpha, self.log_ratio_max))

    @torch.no_grad()
    def student_grad(
        self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"], log_w: Float[Tensor, "*N V"]
    ) -> Float[Tensor, "*N V"]:
        """(w E_w[(p/q)^alpha] - w (p/q)^alpha) / alpha."""
        if limit := self._limit():
            return limit.student_grad(log_p, log_q, log_w)
        return power_grad(log_p, log_q, log_w, self.alpha, limit_of(self.alpha, self.log_ratio_max))

    def diagnostics(
        self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]
    ) -> Mapping[str, Float[Tensor, ""]]:
        """``clipped_share`` where alpha lies outside [0, 1]."""
        if 0 <= self.alpha <= 1:
            return {}
        return {"clipped_share": clipped_share(log_p, log_q, self.log_ratio_max)}

    def _limit(self) -> Divergence | None:
        """The Kullback-Leibler divergence that alpha = 0 or 1 stands for."""
        return {0.0: RKL(), 1.0: FKL()}.get(self.alpha)
