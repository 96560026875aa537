"""SDTT: a student learns in one step what its teacher predicts in several, and becomes the teacher."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
from attrs import validators as v
from jaxtyping import Float
from torch import Tensor, nn

from dimo_core.backbone import Rows, full
from dimo_core.device import transfer
from dimo_core.divergence import Divergence
from dimo_core.draws import Draws
from dimo_core.errors import UsageError
from dimo_core.generator import Generator
from dimo_core.guidance import Guidance, guided
from dimo_core.method import process
from dimo_core.method.logits import Logits, chunks
from dimo_core.method.process import draw_remask
from dimo_core.objective import (
    Batch,
    Ingredients,
    Objective,
    ObjectiveOptions,
    Optimisation,
    Part,
    Phase,
    Stream,
    Succession,
    Use,
    add_to,
)
from dimo_core.teacher import Teacher
from dimo_core.tokens import Tokens
from dimo_distillers.trajectory import Grid, times, trajectory


@attrs.frozen(kw_only=True)
class Sdtt(ObjectiveOptions):
    """Self-distillation through time (SDTT, arXiv 2410.21035).

    From x_t of data the teacher takes k ancestral steps of length dt. At a masked site the target is what it
    predicts in the step that decides it, or in the last one; the student learns it from x_t in one step::

        1 / masked tokens  sum over masked sites  D(target || p_theta(. | x_t))

    with D the chosen divergence (the paper's is KL of student from target: ``--divergence rkl``). After each
    round dt doubles, and the student takes the teacher's place.

    Attributes:
        first_steps: Steps of a sample in the first round's teacher; dt is 1 / first_steps.
        round_steps: Training steps of a round.
        substeps: k, steps of the teacher for one of the student.
        grid: Times of the teacher's steps: ``consecutive`` as in the paper, ``released`` as in its code.
        averaged: Whether the averaged student becomes the teacher (the released code: no).
        schedule: r(t).
        masking: Hide exactly round(r(t) L) tokens, or each one with probability r(t).
        dropout: Train with the network's dropout.
        generator: How the student is optimised.
    """

    needs: ClassVar[frozenset[Stream]] = frozenset({"data"})
    uses: ClassVar[frozenset[Use]] = frozenset({"divergence", "guidance"})

    first_steps: int = attrs.field(default=16, validator=v.ge(2))
    round_steps: int = attrs.field(default=1000, validator=v.ge(1))
    substeps: int = attrs.field(default=2, validator=v.ge(2))
    grid: Grid = "consecutive"
    averaged: bool = False
    schedule: process.Schedule = "linear"
    masking: process.Masking = "bernoulli"
    dropout: bool = False
    generator: Optimisation = attrs.field(factory=lambda: Optimisation(lr=6e-5, warmup=500, ema=0.9999))

    def __attrs_post_init__(self) -> None:
        """Refuse an average that is not there.

        Raises:
            ValueError: with ``averaged`` and without an average.
        """
        if self.averaged and not self.generator.ema:
            raise ValueError(
                "'averaged' takes the student's average, and 'generator.ema' is 0: there is none"
            )

    def dt(self, step: int) -> float:
        """Length of a teacher's step in a step of training; at most 1 / substeps."""
        return min(2.0 ** (step // self.round_steps) / self.first_steps, 1 / self.substeps)

    def build(self, ingredients: Ingredients) -> "SdttObjective":
        """The student, and the teacher that it starts from.

        Raises:
            UsageError: when there is no generator, divergence or guidance, or the teacher cannot be guided.
        """
        i = ingredients
        if i.generator is None or i.divergence is None or i.guidance is None:
            raise UsageError("the objective 'sdtt' needs a generator, a divergence and a guidance")
        i.guidance.check(i.teacher)
        student = i.generator.build(i.teacher, skeleton=i.skeleton).train(self.dropout)
        heir = i.generator.build(i.teacher, skeleton=i.skeleton).eval().requires_grad_(False)
        return SdttObjective(self, i.teacher, student, heir, i.divergence, i.guidance)


class SdttObjective(Objective):
    """One part, and a frozen teacher that it replaces after each round."""

    def __init__(
        self,
        options: Sdtt,
        teacher: Teacher,
        student: Generator,
        heir: Generator,
        divergence: Divergence,
        guidance: Guidance,
    ) -> None:
        self.options, self.teacher, self.student, self.heir = options, teacher, student, heir
        self.divergence, self.guidance = divergence, guidance

    def parts(self) -> Mapping[str, Part]:
        """``generator``."""
        return {"generator": Part(module=self.student, optimisation=self.options.generator)}

    def frozen(self) -> Mapping[str, nn.Module]:
        """``teacher``: of the round."""
        return {"teacher": self.heir}

    def successions(self) -> Mapping[str, Succession]:
        """The student becomes the teacher after each round."""
        o = self.options
        return {"teacher": Succession(part="generator", every=o.round_steps, averaged=o.averaged)}

    def phases(self) -> Sequence[Phase]:
        """``sdtt``."""
        return [SdttPhase(self)]


class SdttPhase(Phase):
    """The student's gradient on a micro-batch."""

    name, parts, stream = "sdtt", ("generator",), "data"

    def __init__(self, objective: SdttObjective) -> None:
        self.of = objective

    def accumulate(self, batch: Batch, draws: Draws, *, watch: bool = False) -> Mapping[str, Tensor]:
        """Its share of the mean over the masked tokens of the global batch."""
        of, o, c, logs = self.of, self.of.options, batch.conditions, dict[str, Tensor]()
        space = of.teacher.tokens
        remask = draw_remask(space.length, o.schedule, o.masking, draws, valid=batch.valid)
        x_t = process.apply_mask(batch.x_0, remask.masked, space)
        dt, t = o.dt(draws.step), draws.host().uniform("t")
        found = trajectory(
            x_t,
            remask.rows,
            times(t, dt, o.substeps, o.grid),
            dt,
            schedule=o.schedule,
            space=space,
            scores=lambda x, ratio, i: self._teacher(x, c, ratio, draws, i),
            draws=draws,
        )
        hidden = of.student.denoise(x_t, c, draws, mask_ratio=transfer(remask.ratio, x_t.device))
        theta = Logits(hidden, remask.rows, of.student, learns=True)
        for k in chunks(len(remask.rows), x_t.numel(), space.columns):
            z_theta = theta(k)
            with torch.no_grad():
                log_target = found.target(remask.rows[k]).log_softmax(-1)
                log_p_theta = z_theta.log_softmax(-1)
                gradient = of.divergence.grad(log_target, log_p_theta) / remask.total
                add_to(logs, {"loss": of.divergence.value(log_target, log_p_theta).sum() / remask.total})
            z_theta.backward(gradient)
        theta.backward()
        return logs

    def _teacher(
        self, x: Tokens, c: Any, ratio: Float[Tensor, " B"], draws: Draws, i: int
    ) -> Callable[[Rows], Float[Tensor, "K V"]]:
        """Scores of the round's teacher; that of the first round is guided, which its student learns."""
        of, where = self.of, transfer(ratio, x.device)
        if draws.step < of.options.round_steps:
            scale = of.guidance.at(ratio)
            return guided(of.teacher, of.heir.backbone, x, c, mask_ratio=where, scale=scale)
        own = attrs.evolve(draws, phase=f"{draws.phase}.teacher{i}")
        hidden = of.heir.denoise(x, c, own, mask_ratio=where)
        return lambda rows: full(of.heir.head(hidden, rows))
