"""The two chi-square divergences; both are unbounded and clip the log-ratio."""

from collections.abc import Mapping
from typing import ClassVar

import attrs
import torch
from attrs import validators as v
from jaxtyping import Float
from torch import Tensor

from dimo_core.divergence import Divergence, clipped_share
from dimo_divergences.arithmetic import finite
from dimo_divergences.power import check_limit, power_grad, power_potential, power_value


class _ChiSquare(Divergence):
    """Twice the alpha-divergence at ``a``."""

    a: ClassVar[float]
    log_ratio_max: float

    def __attrs_post_init__(self) -> None:
        """Check that the power cannot overflow.

        Raises:
            ValueError: if it can.
        """
        check_limit(self.a, self.log_ratio_max)

    def value(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N"]:
        """The sum of squares."""
        return 2 * power_value(log_p, log_q, self.a, self.log_ratio_max)

    def potential(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
        """u, counted from its value at p = q."""
        return 2 * power_potential(log_p, log_q, self.a, self.log_ratio_max)

    @torch.no_grad()
    def student_grad(
        self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"], log_w: Float[Tensor, "*N V"]
    ) -> Float[Tensor, "*N V"]:
        """w (u - E_w u)."""
        return 2 * power_grad(log_p, log_q, log_w, self.a, self.log_ratio_max)

    def diagnostics(
        self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]
    ) -> Mapping[str, Float[Tensor, ""]]:
        """``clipped_share``: share of entries whose log-ratio was clipped."""
        return {"clipped_share": clipped_share(log_p, log_q, self.log_ratio_max)}


@attrs.frozen(kw_only=True)
class Pearson(_ChiSquare):
    """Pearson's chi-square, sum (p - q)^2 / q: u = -(p/q)^2; overflows where q vanishes.

    Attributes:
        log_ratio_max: Largest abs(log p/q); the share of clipped entries is logged.
    """

    a = 2.0
    log_ratio_max: float = attrs.field(default=20.0, validator=[v.gt(0), finite])


@attrs.frozen(kw_only=True)
class Neyman(_ChiSquare):
    """Neyman's chi-square, sum (p - q)^2 / p: u = 2 q/p; overflows where p vanishes.

    Attributes:
        log_ratio_max: Largest abs(log p/q); the share of clipped entries is logged.
    """

    a = -1.0
    log_ratio_max: float = attrs.field(default=20.0, validator=[v.gt(0), finite])
