"""Ancestral sampling as the code of MDLM (arXiv 2406.07524) does it, and that of Duo after it."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import attrs
import torch
import torch.nn.functional as F
from attrs import validators as v
from jaxtyping import Float
from torch import Tensor

from dimo_core.method.process import mask_ratio
from dimo_samplers.kernel import Kernel, posterior
from dimo_samplers.staged import Law, Stage, StagedSampler

VISIBLE = 1e-3
"""MDLM's process hides a token at time t with probability (1 - 1e-3) t."""


@attrs.frozen(kw_only=True)
class MdlmSampler(StagedSampler):
    """The exact posterior between n + 1 times from 1 to ``eps``, and a pass at ``eps`` for what is left.

    A step unmasks each masked site with probability (r_t - r_s) / r_t. n steps cost n + 1 passes, less those
    that would change nothing. The law is that of MDLM's ``ddpm_cache``. Tokens are drawn by inversion, with
    one number each: Gumbel noise of float32, which cuts off unlikely tokens there, is not imitated.

    Attributes:
        eps: Time at which the steps end.
        last: What decides the sites that are left then: a draw (Duo's ancestral), or the likeliest code
            (MDLM's noise removal).
        cache: Use a pass again as long as no token of the batch changes (ddpm_cache). Samples are the same.
        ratio: What a network that is told the mask ratio is told: each sample's own share of masks, or the
            probability of a mask at the step's time, as in MDLM's code (no pass serves twice then).
        schedule: The mask ratio r(t) at these times: linear t, square t^2, cosine cos((1 - t) pi / 2), arccos
            arccos(1 - t) 2 / pi.
        temperature: Divides the logits.
    """

    eps: float = attrs.field(default=1e-5, validator=[v.gt(0), v.lt(1)])
    last: Literal["draw", "likeliest"] = "likeliest"
    cache: bool = True
    ratio: Literal["share", "time"] = "share"

    @property
    def keeps(self) -> bool:
        """``cache``."""
        return self.cache

    def told(self, stage: Stage, share: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The share of masks, or (1 - 1e-3) r."""
        return share if self.ratio == "share" else torch.full_like(share, (1 - VISIBLE) * stage.ratio)

    def plan(self, steps: int) -> list[tuple[Stage, ...]]:
        """A stage a step, and in the last step a second one for what is left."""
        times = torch.linspace(1, self.eps, steps + 1, dtype=torch.float64)
        grid: list[float] = mask_ratio(times, self.schedule).tolist()
        plan: list[tuple[Stage, ...]] = [
            (Stage(ratio=before, progress=i / steps, law=_law(before, after)),)
            for i, (before, after) in enumerate(pairwise(grid))
        ]
        rest = likeliest if self.last == "likeliest" else _law(grid[-1], 0.0)
        plan[-1] += (Stage(ratio=grid[-1], progress=1.0, law=rest),)
        return plan


def _law(before: float, after: float) -> Law:
    return lambda z: posterior(z[-1], before, after)


def likeliest(z: Sequence[Float[Tensor, "K V"]]) -> Kernel:
    """The likeliest code at every site."""
    codes = F.one_hot(z[-1].argmax(-1), z[-1].shape[-1]).to(z[-1].dtype)
    return Kernel(unmask=codes.new_ones(len(codes)), codes=codes)
