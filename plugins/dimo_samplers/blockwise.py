"""LLaDA's sampler: the answer block by block, in each the most confident tokens first (arXiv 2502.09992)."""

from functools import partial
from typing import Any, Literal, get_args

import attrs
import torch
from attrs import validators as v
from attrs.converters import optional
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dimo_core.backbone import Backbone, Rows
from dimo_core.device import transfer, widest
from dimo_core.draws import Draws, categorical
from dimo_core.errors import UsageError
from dimo_core.guidance import Guidance, guided, passes
from dimo_core.sampler import Sampled, ScheduledSampler, Unknown
from dimo_core.teacher import Teacher
from dimo_samplers.scoring import best, blocks, scored

Order = Literal["confidence", "random"]


def spread(tokens: int, steps: int) -> list[int]:
    """As many tokens in each step as in any other, the first ones taking what is left over."""
    return [tokens // steps + (i < tokens % steps) for i in range(steps)]


def plan(sites: int, block: int | None, steps: int) -> list[tuple[int, int]]:
    """The block of each step, and how many tokens it decides; those that decide none are left out.

    LLaDA refuses sites that blocks do not divide, and steps that these do not; here the last block may be
    shorter, and the first ones have the steps that are left over.

    Args:
        sites: To decide.
        block: Sites of a block; None for all.
        steps: Steps of all blocks together.

    Raises:
        UsageError: for fewer steps than blocks.
    """
    size = min(block or sites, sites)
    sizes = [min(size, sites - start) for start in range(0, sites, size)]
    if steps < len(sizes):
        raise UsageError(
            f"{steps} steps are fewer than the {len(sizes)} blocks of {size} tokens that {sites} tokens "
            "make: each block takes a step at least. Take more steps, or a larger sampler.block."
        )
    each = zip(sizes, spread(steps, len(sizes)), strict=True)
    return [(b, k) for b, (tokens, own) in enumerate(each) for k in spread(tokens, own) if k > 0]


_COUNT: Any = v.optional(v.ge(1))


@attrs.frozen(kw_only=True)
class BlockwiseSampler(ScheduledSampler):
    """Each step draws all undecided tokens of its block and decides the most confident; one pass a step.

    Confidence is the probability of the drawn token at the temperature 1, whatever it was drawn at.

    Attributes:
        block: Sites of a block, in the order of the sites; null for one block of all.
        order: Which drawn tokens are kept: the most confident ones (``low_confidence``, as LLaDA calls the
            others), or random ones.
        temperature: Divides the logits of the draw, which is made in fp64; 0 takes the likeliest token.
        never: Ids that are not drawn; with that of the end, LLaDA's ``logits_eos_inf``.
        last: Ids that count as the least confident where they are drawn, so that they are decided last; with
            those of the end of text and turn, LLaDA's ``confidence_eos_eot_inf`` (which spares the end of
            text where the temperature is not 0).
    """

    block: int | None = attrs.field(default=32, validator=_COUNT)
    order: Order = attrs.field(default="confidence", validator=v.in_(get_args(Order)))
    temperature: float = attrs.field(default=0.0, validator=v.ge(0))
    never: tuple[int, ...] = attrs.field(default=(), converter=optional(tuple))
    last: tuple[int, ...] = attrs.field(default=(), converter=optional(tuple))

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
        """Start from masks only; a step in which no token would be decided makes no pass.

        Raises:
            UsageError: for fewer steps than blocks.
        """
        x, undecided, draws, left = start.x, start.undecided, start.draws, start.sites
        block = blocks(undecided, self.block or start.sites)
        planned, used, trajectory = plan(start.sites, self.block, steps), 0, []
        remaining = {b: sum(k for own, k in planned if own == b) for b, _ in planned}
        for i, (b, count) in enumerate(planned):
            now = attrs.evolve(draws, phase=f"{draws.phase}/{i}")
            ratio = torch.full((draws.count,), left / start.sites)
            scale = guidance.at(ratio, i / (len(planned) - 1) if len(planned) > 1 else 1.0)
            used += passes(scale)
            told = teacher.at_step(network, i, len(planned))
            logits = guided(teacher, told, x, start.c, mask_ratio=transfer(ratio, x.device), scale=scale)
            u = now.uniform("drawn", x.shape[1]).flatten() if self.temperature > 0 else None
            judge, own = partial(self._judged, u), undecided & (block == b)
            drawn, score = scored(logits, own, remaining[b], teacher.tokens.columns, judge)
            decide = self._kept(score, own, count, now)
            x = torch.where(decide, drawn, x)
            undecided, left, remaining[b] = undecided & ~decide, left - count, remaining[b] - count
            trajectory += [x] if keep_trajectory else []
        return Sampled(tokens=x, passes=used, trajectory=tuple(trajectory))

    def _judged(
        self, u: Float[Tensor, " N"] | None, z: Float[Tensor, "K V"], rows: Rows
    ) -> tuple[Int[Tensor, " K"], Float[Tensor, " K"]]:
        """A token for each of some sites, and its log-probability."""
        z = _without(z, self.never)
        heat = self.temperature
        token = z.argmax(-1) if u is None else categorical(z.to(widest(z.device)) / heat, u[rows])
        return token, _without(z, self.last).log_softmax(-1).gather(-1, token[:, None]).squeeze(-1)

    def _kept(
        self, score: Float[Tensor, "B L"], own: Bool[Tensor, "B L"], count: int, draws: Draws
    ) -> Bool[Tensor, "B L"]:
        if self.order == "random":
            score = draws.uniform("order", score.shape[1]).masked_fill(~own, -torch.inf)
        return best(score, count)


def _without(z: Float[Tensor, "K V"], ids: tuple[int, ...]) -> Float[Tensor, "K V"]:
    """Logits with -inf for these ids."""
    return z.index_fill(-1, torch.tensor(ids, device=z.device), -torch.inf) if ids else z
