"""Samplers that decide the sites in an order which does not look at the tokens."""

from abc import abstractmethod
from typing import Literal, get_args

import attrs
import torch
from attrs import validators as v
from jaxtyping import Int
from torch import Tensor

from dimo_core.backbone import Backbone
from dimo_core.device import transfer
from dimo_core.draws import Draws, categorical
from dimo_core.guidance import Guidance, guided, passes
from dimo_core.method.logits import chunks
from dimo_core.sampler import Sampled, ScheduledSampler, Unknown
from dimo_core.teacher import Teacher
from dimo_core.tokens import TokenSpace
from dimo_samplers.maskgit import Schedule, share, tokens_per_step

Counts = Literal["share", "cumulative", "amused", "halton"]


def ordered_counts(length: int, steps: int, schedule: Schedule, counts: Counts) -> list[int]:
    """How many tokens each step decides: ``halton`` here, the others as ``tokens_per_step`` counts.

    Halton-MaskGIT rounds the tokens known after step i down: max(i, floor(L (1 - share(i / steps)))).

    Args:
        length: Number of tokens L.
        steps: Steps asked for; at most L of them decide something.
        schedule: Shape.
        counts: Meaning of the shape.
    """
    if counts != "halton":
        return tokens_per_step(length, steps, schedule, counts)
    i = torch.arange(1, steps + 1, dtype=torch.float64)
    known = (length * (1 - share(i / steps, schedule))).floor().maximum(i).clamp_max(length)
    known[-1] = length
    return [int(n) for n in known.diff(prepend=torch.zeros(1, dtype=known.dtype)) if n > 0]


@attrs.frozen(kw_only=True)
class OrderedSampler(ScheduledSampler):
    """Decides the next sites of an order in each step, by a schedule of token counts; one pass a step.

    Attributes:
        schedule: Shape of the schedule.
        counts: Whether the schedule gives each step's share (share: MaskGIT-pytorch v1.0), or the tokens
            still masked after it, rounded to nearest (cumulative), down (amused) or up (halton).
        temperature: Divides the logits.
    """

    schedule: Schedule = attrs.field(default="arccos", validator=v.in_(get_args(Schedule)))
    counts: Counts = attrs.field(default="cumulative", validator=v.in_(get_args(Counts)))
    temperature: float = attrs.field(default=1.0, validator=v.gt(0))

    @abstractmethod
    def order(self, space: TokenSpace, draws: Draws) -> Int[Tensor, "B L"]:
        """The sites of each sample in the order in which they are decided.

        Args:
            space: The teacher's tokens.
            draws: Random numbers; its ``count`` is B.
        """

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
        """Start from masks only; each step draws the tokens of its sites, and only they reach the head."""
        space, x, draws, c = teacher.tokens, start.x, start.draws, start.c
        first = torch.arange(draws.count, device=draws.device)[:, None] * space.length
        order = self.order(space, draws)
        given = ~start.undecided.gather(1, order)  # behind all others, whose order stays
        rows = order.gather(1, given.int().argsort(dim=1, stable=True)) + first
        counts = ordered_counts(start.sites, steps, self.schedule, self.counts)
        used, done, trajectory = 0, 0, []
        for i, count in enumerate(counts):
            ratio = torch.full((draws.count,), 1 - done / start.sites)
            scale = guidance.at(ratio, i / (len(counts) - 1) if len(counts) > 1 else 1.0)
            used += passes(scale)
            told = teacher.at_step(network, i, len(counts))
            logits = guided(teacher, told, x, c, mask_ratio=transfer(ratio, x.device), scale=scale)
            u = attrs.evolve(draws, phase=f"{draws.phase}/{i}").uniform("drawn", space.length).flatten()
            x = x.flatten()
            now = rows[:, done : done + count].flatten()
            for some in (now[k] for k in chunks(len(now), len(now), space.columns)):
                x = x.scatter(0, some, categorical(logits(some) / self.temperature, u[some]))
            x, done = x.view(draws.count, -1), done + count
            trajectory += [x] if keep_trajectory else []
        return Sampled(tokens=x, passes=used, trajectory=tuple(trajectory))
