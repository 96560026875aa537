"""The MaskGIT sampler: draw all masked tokens, keep some, repeat (Chang et al., 2022)."""

import math
from functools import partial
from typing import Literal, get_args

import attrs
import torch
from attrs import validators as v
from jaxtyping import Float
from torch import Tensor

from dimo_core.backbone import Backbone, Rows
from dimo_core.device import transfer
from dimo_core.draws import Draws, categorical
from dimo_core.guidance import Guidance, guided, passes
from dimo_core.sampler import Sampled, ScheduledSampler, Unknown
from dimo_core.teacher import Teacher
from dimo_samplers.scoring import best, scored

Schedule = Literal["linear", "square", "root", "cosine", "arccos"]
Counts = Literal["share", "cumulative", "amused"]
Order = Literal["confidence", "random"]


def share(r: Float[Tensor, " n"], schedule: Schedule) -> Float[Tensor, " n"]:
    """The decreasing function of a schedule, from 1 at r = 0 to 0 at r = 1."""
    match schedule:
        case "linear":
            return 1 - r
        case "square":
            return 1 - r.square()
        case "root":
            return 1 - r.sqrt()
        case "cosine":
            return (r * (math.pi / 2)).cos()
        case "arccos":
            return r.acos() * (2 / math.pi)


def tokens_per_step(length: int, steps: int, schedule: Schedule, counts: Counts) -> list[int]:
    """How many tokens each step decides; positive numbers that add up to ``length``.

    ``share`` is MaskGIT-pytorch v1.0: the schedule read backwards gives each step's *share*, a zero becomes
    one, and the last step takes the rest. At large step counts that rest is negative; here the steps from
    the end are shortened instead, so fewer than ``steps`` may be taken. ``cumulative`` leaves
    round(share(i / steps) * length) tokens masked after step i, and decides at least one in each step.
    ``amused`` (aMUSEd, Meissonic) rounds down, decides at least one and leaves at least one to the last step;
    where that leaves nothing to decide in some steps before the last one, for want of tokens, these are left
    out.

    Args:
        length: Number of tokens L.
        steps: Steps asked for.
        schedule: Shape.
        counts: Meaning of the shape.
    """
    if counts == "share" and steps > 1:
        f = share(torch.linspace(1, 0, steps), schedule)
        each = (f / f.sum() * length).round().clamp_min(1)
        each[-1] += (length - each.sum()).clamp_min(0)
        decided = each.cumsum(0)
    elif counts == "amused":
        goals = (length * share(torch.arange(1, steps + 1) / steps, schedule)).floor()
        masked = [length]
        for goal in goals[:-1].tolist():
            masked.append(max(min(int(goal), masked[-1] - 1), 1))
        decided = torch.tensor([*(length - n for n in masked[1:]), length]).float()
    else:
        left = share(torch.linspace(0, 1, steps + 1)[1:], schedule)
        decided = (length - (left * length).round()).maximum(torch.arange(1.0, steps + 1))
        decided[-1] = length
    decided = torch.cat([torch.zeros(1), decided.clamp_max(length)])
    return [int(n) for n in decided.diff() if n > 0]


@attrs.frozen(kw_only=True)
class MaskGitSampler(ScheduledSampler):
    """Confidence or random order, with a schedule of token counts.

    Attributes:
        schedule: Shape of the schedule.
        counts: Whether the schedule gives each step's share (MaskGIT-pytorch v1.0), or the tokens still
            masked after it, rounded to nearest (cumulative) or down (amused: aMUSEd, Meissonic).
        order: Which drawn tokens are kept: the most confident ones, or random ones (the teacher rows of the
            Di[M]O paper).
        gumbel: Strength of the Gumbel noise on the confidence; it falls linearly to 0 over the steps.
        temperature: Divides the logits.
    """

    schedule: Schedule = attrs.field(default="arccos", validator=v.in_(get_args(Schedule)))
    counts: Counts = attrs.field(default="cumulative", validator=v.in_(get_args(Counts)))
    order: Order = attrs.field(default="confidence", validator=v.in_(get_args(Order)))
    gumbel: float = attrs.field(default=4.5, validator=v.ge(0))
    temperature: float = attrs.field(default=1.0, validator=v.gt(0))

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
        """Start from masks only; each step draws every undecided token and decides the best few."""
        x, undecided, draws, left = start.x, start.undecided, start.draws, start.sites
        counts, used, trajectory = tokens_per_step(start.sites, steps, self.schedule, self.counts), 0, []
        asked = steps if self.counts == "amused" else len(counts)
        for i, count in enumerate(counts):
            step = i if i < len(counts) - 1 else asked - 1  # steps are left out before the last one only
            progress = step / (asked - 1) if asked > 1 else 1.0
            now = attrs.evolve(draws, phase=f"{draws.phase}/{i}")
            ratio = torch.full((draws.count,), left / start.sites)
            scale = guidance.at(ratio, progress)
            used += passes(scale)
            told = teacher.at_step(network, step, asked)
            logits = guided(teacher, told, x, start.c, mask_ratio=transfer(ratio, x.device), scale=scale)
            judge = partial(self._judged, now.uniform("drawn", x.shape[1]).flatten())
            drawn, log_p = scored(logits, undecided, left, teacher.tokens.columns, judge)
            decide = self._best(log_p, undecided, count, 1 - progress, now)
            x = torch.where(decide, drawn, x)
            undecided, left = undecided & ~decide, left - count
            trajectory += [x] if keep_trajectory else []
        return Sampled(tokens=x, passes=used, trajectory=tuple(trajectory))

    def _judged(self, u: Float[Tensor, " N"], z: Float[Tensor, "K V"], rows: Rows) -> tuple[Tensor, Tensor]:
        """A token for each of some sites, and its log-probability."""
        z = z / self.temperature
        token = categorical(z, u[rows])
        return token, z.log_softmax(-1).gather(-1, token[:, None]).squeeze(-1)

    def _best(self, log_p: Tensor, undecided: Tensor, count: int, noise: float, draws: Draws) -> Tensor:
        """Which ``count`` undecided sites of each sample to decide."""
        score = log_p
        if self.order == "random":
            score = draws.uniform("order", log_p.shape[1])
        elif self.gumbel * noise > 0:
            score = log_p + self.gumbel * noise * draws.gumbel("gumbel", log_p.shape[1])
        return best(score.masked_fill(~undecided, -torch.inf), count)
