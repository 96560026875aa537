"""Classifier-free guidance: the only place where two logits are combined.

z = z_u + s (z_c - z_u), with s = 1 meaning off. Sources that count w = s - 1 are converted at the border.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import attrs
import torch
from attrs import validators as v
from jaxtyping import Float
from loguru import logger
from torch import Tensor

from dimo_core import conditions
from dimo_core.backbone import Backbone, Rows, full
from dimo_core.conditions import Condition
from dimo_core.device import transfer
from dimo_core.errors import UsageError
from dimo_core.teacher import Teacher
from dimo_core.tokens import Tokens


class Guidance(ABC):
    """Maps the share of masked tokens to the guidance scale s; a frozen attrs class of its options."""

    @abstractmethod
    def at(self, mask_ratio: Float[Tensor, " B"], progress: float | None = None) -> Float[Tensor, " B"]:
        """The scale s of each sample.

        Args:
            mask_ratio: Share of masked tokens of each sample.
            progress: Within multi-step sampling, the step i of n as i / (n - 1); None in training.
        """

    def check(self, teacher: Teacher) -> None:
        """Look whether a teacher can be guided so.

        Raises:
            UsageError: when it has no null condition, and a scale is not 1.
        """
        guided = bool((self.at(torch.linspace(0, 1, 9, device="cpu")) != 1).any())
        if guided and "guidance" not in teacher.capabilities:
            raise UsageError(
                f"the guidance scale is not 1, but teacher {type(teacher).__name__} has no null condition. "
                "Use --guidance.scale 1."
            )


def _finite(_guidance: Guidance, attribute: "attrs.Attribute[float]", value: float) -> None:
    """``v.ge`` alone lets infinity pass; scales are used in fp32."""
    if value == 0:
        logger.warning("guidance 0 leaves the condition out altogether; no guidance is 1")
    if not abs(value) <= torch.finfo(torch.float32).max:
        raise ValueError(f"{attribute.name!r} must be a finite number, 1 being no guidance; got {value}")


@attrs.frozen(kw_only=True)
class _Scaled(Guidance):
    """Guidance with one scale.

    Attributes:
        scale: The scale s in z_u + s (z_c - z_u); 1 is off.
    """

    scale: float = attrs.field(default=1.0, validator=[_finite, v.ge(0)])


@attrs.frozen(kw_only=True)
class Constant(_Scaled):
    """The same scale for every mask ratio."""

    def at(self, mask_ratio: Float[Tensor, " B"], progress: float | None = None) -> Float[Tensor, " B"]:
        """``scale`` for all."""
        return torch.full_like(mask_ratio, self.scale)


@attrs.frozen(kw_only=True)
class Ramp(_Scaled):
    """From 1 when all is masked to ``scale`` when nothing is (the MaskGIT v1.0 sampler's ramp over steps)."""

    def at(self, mask_ratio: Float[Tensor, " B"], progress: float | None = None) -> Float[Tensor, " B"]:
        """Linear in the sampling step, or in the share of known tokens where there are no steps."""
        done = 1 - mask_ratio if progress is None else torch.full_like(mask_ratio, progress)
        return 1 + (self.scale - 1) * done


@attrs.frozen(kw_only=True)
class Adaptive(_Scaled):
    """From ``scale`` when all is masked to 1 when nothing is (paper, appendix: tried without gain)."""

    def at(self, mask_ratio: Float[Tensor, " B"], progress: float | None = None) -> Float[Tensor, " B"]:
        """Linear in the mask ratio."""
        return 1 + (self.scale - 1) * mask_ratio


def guided(
    teacher: Teacher,
    network: Backbone,
    x: Tokens,
    c: Condition,
    *,
    mask_ratio: Float[Tensor, " B"],
    scale: Float[Tensor, " B"],
) -> Callable[[Rows | None], Float[Tensor, "... V"]]:
    """z_phi with guidance: one batch of 2B samples, or a single pass where s = 1 for all.

    The network runs once, its head for each call. Logits are combined in fp32 at least: their difference is
    what guidance amplifies.

    Args:
        teacher: Says what the null condition is.
        network: Whose logits to guide.
        x: Partly masked tokens.
        c: Conditions.
        mask_ratio: Share of masked tokens.
        scale: The scales s; keep them on the CPU, so that choosing the single pass waits for nothing.

    Returns:
        What gives ``[B, L, V]`` for None, and ``[K, V]`` for K flat rows.
    """
    if bool((scale == 1).all()):
        every = network(x, c, mask_ratio=mask_ratio)
        return lambda rows: full(network.head(every, rows))
    both = conditions.cat([c, teacher.null_condition(c)])
    hidden = network(torch.cat([x, x]), both, mask_ratio=torch.cat([mask_ratio, mask_ratio]))
    s, restricted = transfer(scale, x.device), teacher.tokens.restricted

    def apart(z_c: Tensor, z_u: Tensor, s: Tensor) -> Tensor:
        z = z_u + s.to(z_c) * (z_c - z_u)
        return torch.where(z_c == z_u, z_c, z) if restricted else z  # both are -inf where a code is forbidden

    def logits(rows: Rows | None) -> Float[Tensor, "... V"]:
        if rows is None:
            z_c, z_u = full(network.head(hidden)).chunk(2)
            return apart(z_c, z_u, s[:, None, None])
        z_c, z_u = (full(network.head(hidden, some)) for some in (rows, rows + x.numel()))
        return apart(z_c, z_u, s[rows // x.shape[1], None])

    return logits


def passes(scale: Float[Tensor, " B"]) -> int:
    """Forward passes that ``guided`` needs for these scales: 1 or 2."""
    return 1 if bool((scale == 1).all()) else 2
