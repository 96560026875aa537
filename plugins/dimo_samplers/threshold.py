"""Threshold samplers: as many tokens a pass as are sure enough (Fast-dLLM, dParallel)."""

from typing import Any, Literal, get_args

import attrs
import torch
from attrs import validators as v
from jaxtyping import Float, Int
from torch import Tensor

from dimo_core.backbone import Backbone
from dimo_core.device import widest
from dimo_core.guidance import Guidance, guided, passes
from dimo_core.method.logits import chunks
from dimo_core.sampler import Sampled, ScheduledSampler, Unknown
from dimo_core.teacher import Teacher
from dimo_samplers.scoring import blocks

Measure = Literal["confidence", "entropy"]

_COUNT: Any = v.optional(v.ge(1))


def judged(z: Float[Tensor, "K V"], by: Measure) -> tuple[Int[Tensor, " K"], Float[Tensor, " K"]]:
    """The likeliest token of each site, and its probability, or less than 0 by the entropy; in fp64.

    Args:
        z: Logits.
        by: Which of the two.
    """
    p = z.to(widest(z.device)).softmax(-1)
    sure, token = p.max(-1)
    return token, sure if by == "confidence" else (p * (p + 1e-12).log()).sum(-1)


@attrs.frozen(kw_only=True)
class ThresholdSampler(ScheduledSampler):
    """Each pass decides the likeliest token at every site of a block that is sure enough, and at the surest.

    The next block begins when one is finished. There are at most as many passes as steps; the last of so many
    decides all that is left.

    Attributes:
        by: What makes a token sure: its probability (Fast-dLLM), or the entropy of its site (dParallel).
        threshold: Least probability, or largest entropy in nats.
        block: Sites of a block, in the order of the sites; null for one block of all.
    """

    by: Measure = attrs.field(default="confidence", validator=v.in_(get_args(Measure)))
    threshold: float = attrs.field(default=0.9, validator=v.ge(0))
    block: int | None = attrs.field(default=32, validator=_COUNT)

    def from_masks(
        self,
        teacher: Teacher,
        network: Backbone,
        start: Unknown,
        *,
        steps: int,
        guidance: Guidance,
        keep_trajectory: bool,
    ) -> Sampled:
        """Start from masks only; nothing is random. Guidance sees each sample's own share of masks."""
        x, undecided, used, trajectory = start.x, start.undecided, 0, list[Tensor]()
        calls = torch.zeros(len(x), dtype=torch.long, device=x.device)
        block = blocks(undecided, self.block or start.sites)
        for i in range(steps):
            if not bool(undecided.any()):
                break
            first = block.masked_fill(~undecided, x.shape[1]).amin(1, keepdim=True)
            own = undecided & (block == first) if i < steps - 1 else undecided
            ratio = undecided.float().sum(1) / start.sites
            scale = guidance.at(ratio.cpu())
            used += passes(scale)
            calls += undecided.any(1) * (1 + (scale != 1).to(x.device))
            told = teacher.at_step(network, i, steps)
            logits = guided(teacher, told, x, start.c, mask_ratio=ratio, scale=scale)
            rows = own.flatten().nonzero().squeeze(1)
            runs = [rows[k] for k in chunks(len(rows), x.numel(), teacher.tokens.columns)]
            found = [judged(logits(some), self.by) for some in runs]
            token, sure = (torch.cat(part) for part in zip(*found, strict=True))
            drawn = torch.zeros_like(x).flatten().scatter(0, rows, token).view_as(x)
            score = (
                torch.full_like(x, -torch.inf, dtype=sure.dtype).flatten().scatter(0, rows, sure).view_as(x)
            )
            enough = score >= (self.threshold if self.by == "confidence" else -self.threshold)
            best = torch.zeros_like(own).scatter(1, score.argmax(1, keepdim=True), True)
            decide = own & (enough | best) if i < steps - 1 else own
            x, undecided = torch.where(decide, drawn, x), undecided & ~decide
            trajectory += [x] if keep_trajectory else []
        return Sampled(tokens=x, passes=used, calls=calls, trajectory=tuple(trajectory))
