"""Samplers that follow the reverse process in time: each masked site jumps to a code at a random time."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import get_args

import attrs
import torch
from attrs import validators as v
from jaxtyping import Bool, Float
from torch import Tensor

from dimo_core.backbone import Backbone, Rows
from dimo_core.draws import Draws
from dimo_core.guidance import Guidance, guided, passes
from dimo_core.method.logits import chunks
from dimo_core.method.process import Schedule, mask_ratio
from dimo_core.sampler import Sampled, ScheduledSampler, Unknown
from dimo_core.teacher import Teacher
from dimo_core.tokens import Tokens
from dimo_samplers.kernel import Kernel

Evaluation = Callable[[Rows], Float[Tensor, "K V"]]
"""One pass of the network: logits of the rows asked for."""

Law = Callable[[Sequence[Float[Tensor, "K V"]]], Kernel]
"""From the logits of a step's passes so far, at the sites that are masked now, to what happens to them."""


@attrs.frozen(kw_only=True, eq=False)
class Stage:
    """One pass of the network, and the jumps that are drawn after it.

    Attributes:
        ratio: Mask ratio of the process at which the stage begins; what guidance sees.
        progress: Where it begins within all steps, from 0 to 1; what guidance sees.
        law: What happens to the masked sites.
    """

    ratio: float
    progress: float
    law: Law


@attrs.frozen(kw_only=True, eq=False)
class Pass:
    """One pass of the network, and what it was made of.

    Attributes:
        network: As the teacher gave it for the step.
        x: Tokens.
        ratio: Mask ratio that the network was told.
        scale: Scale of the guidance.
        logits: What the pass gives.
    """

    network: Backbone
    x: Tokens
    ratio: Float[Tensor, " B"]
    scale: Float[Tensor, " B"]
    logits: Evaluation

    def serves(self, network: Backbone, x: Tokens, ratio: Tensor, scale: Tensor) -> bool:
        """Whether a pass of these would give the same; waits for the device."""
        same = network is self.network and torch.equal(scale, self.scale)
        return same and torch.equal(ratio, self.ratio) and torch.equal(x, self.x)


def ratios(steps: int, schedule: Schedule, delta: float = 0.0, power: float = 1.0) -> list[float]:
    """The mask ratios between which the steps go, from 1 to 0.

    Args:
        steps: Number of steps S.
        schedule: r(t), of which r((1 - i / S)^power) are taken.
        delta: Where the last step begins; the others share what lies between 1 and it. At 0 the last step is
            like the others.
        power: Above 1 the steps narrow towards the end.
    """
    between = steps if delta == 0 else steps - 1
    r = mask_ratio(torch.linspace(1, 0, between + 1, dtype=torch.float64) ** power, schedule)
    grid: list[float] = (delta + (1 - delta) * r).tolist()
    return [*grid[:steps], 0.0]


@attrs.frozen(kw_only=True)
class StagedSampler(ScheduledSampler):
    """Draws what the laws of its stages say; stages at which nothing is masked any more are left out.

    Attributes:
        schedule: The mask ratio r(t) at the times t = 1 - i / steps between which the steps go: linear t,
            square t^2, cosine cos((1 - t) pi / 2), arccos arccos(1 - t) 2 / pi.
        temperature: Divides the logits.
    """

    schedule: Schedule = attrs.field(default="linear", validator=v.in_(get_args(Schedule)))
    temperature: float = attrs.field(default=1.0, validator=v.gt(0))

    @property
    def keeps(self) -> bool:
        """Whether a pass is used again where nothing that it was made of has changed in the batch."""
        return False

    @abstractmethod
    def plan(self, steps: int) -> list[tuple[Stage, ...]]:
        """The stages of each step; after the last one no site is masked.

        Args:
            steps: Number of steps.
        """

    def kernel(self, stage: Stage, logits: Sequence[Float[Tensor, "K V"]]) -> Kernel:
        """What happens to K masked sites.

        Args:
            stage: Which stage.
            logits: Those of the step's passes so far, this one's last, at the temperature 1.
        """
        return stage.law([z / self.temperature for z in logits])

    def told(self, stage: Stage, share: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The mask ratio that the network is told: the share of masks in each sample, unless overridden.

        Args:
            stage: Which stage.
            share: This share.
        """
        return share

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
        """Start from masks only, and go through the stages.

        The network is told what ``told`` gives. Guidance sees the mask ratio of the process, which
        is the same for all, so that the number of passes does not hang on what was drawn.
        """
        space, x, undecided, draws = teacher.tokens, start.x, start.undecided, start.draws
        rows = start.rows
        used, trajectory, plan = 0, [], self.plan(steps)
        last: Pass | None = None
        for i, stages in enumerate(plan):
            if not len(rows):
                break
            told = teacher.at_step(network, i, len(plan))
            seen: list[Evaluation] = []
            for j, stage in enumerate(stages):
                if not len(rows):
                    break
                scale = guidance.at(torch.full((draws.count,), stage.ratio), stage.progress)
                ratio = self.told(stage, undecided.float().sum(1) / start.sites)
                if last is None or not self.keeps or not last.serves(told, x, ratio, scale):
                    used += passes(scale)
                    logits = guided(teacher, told, x, start.c, mask_ratio=ratio, scale=scale)
                    last = Pass(network=told, x=x, ratio=ratio, scale=scale, logits=logits)
                seen.append(last.logits)
                now = attrs.evolve(draws, phase=f"{draws.phase}/{i}/{j}")
                x, undecided = self._advanced(stage, seen, x, undecided, rows, space.columns, now)
                rows = undecided.flatten().nonzero().squeeze(1)
            trajectory += [x] if keep_trajectory else []
        return Sampled(tokens=x, passes=used, trajectory=tuple(trajectory))

    def _advanced(
        self,
        stage: Stage,
        seen: Sequence[Evaluation],
        x: Tokens,
        undecided: Bool[Tensor, "B L"],
        rows: Rows,
        columns: int,
        draws: Draws,
    ) -> tuple[Tokens, Bool[Tensor, "B L"]]:
        """Tokens, and what is undecided, after a stage; the head runs for some rows at a time."""
        u, w = (draws.uniform(stream, x.shape[1]).flatten() for stream in ("jump", "drawn"))
        tokens, masked = x.flatten().clone(), undecided.flatten().clone()
        for some in (rows[k] for k in chunks(len(rows), x.numel(), columns)):
            kernel = self.kernel(stage, [logits(some) for logits in seen])
            jump, code = kernel.draw(u[some], w[some])
            tokens[some] = torch.where(jump, code, tokens[some])
            masked[some] = ~jump
        return tokens.view_as(x), masked.view_as(undecided)
