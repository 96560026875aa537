"""The objective ``dimo``: the phases in which generator and auxiliary take turns."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import attrs
import torch
from attrs import validators as v
from torch import Tensor, nn

from dimo_core.backbone import Rows
from dimo_core.draws import Draws
from dimo_core.errors import UsageError
from dimo_core.method import process
from dimo_core.method.process import Remask, draw_remask
from dimo_core.method.step import Jacobian, Step
from dimo_core.method.weighting import WEIGHTS, WeightName
from dimo_core.objective import (
    Batch,
    Ingredients,
    Objective,
    ObjectiveOptions,
    Optimisation,
    Part,
    Phase,
)


def _check_bounds(
    _: object, attribute: "attrs.Attribute[tuple[float, float]]", value: tuple[float, ...]
) -> None:
    if len(value) != 2 or not 0 <= value[0] <= value[1] <= 1:
        raise ValueError(f"'{attribute.name}' must be two numbers, 0 <= least <= largest <= 1: {value}")


@attrs.frozen(kw_only=True)
class Dimo(ObjectiveOptions):
    """Di[M]O distillation (arXiv 2503.15457), with its open choices by name.

    Attributes:
        rollout: Whether the auxiliary learns from its own fresh rollout after the generator's update (the
            paper), or from the generator's, with one auxiliary forward pass for both.
        auxiliary_steps: Auxiliary updates a step; each one beyond the first uses a fresh rollout.
        weight: The weight w(t): none (the released code), 1 / masked tokens (equation 5), or DMD's
            normaliser (appendix C).
        teacher_temperature: Divides the teacher's logits; below 1 the generator learns a sharper teacher
            (the paper: 1).
        jacobian: Whose softmax equation 4 is taken through: the auxiliary's (the paper) or the generator's.
        schedule: Re-masking schedule r(t).
        ratio_bounds: Least and largest r(t); what the schedule gives is clamped to them.
        masking: Hide exactly round(r(t) L) tokens, or each one with probability r(t).
        dropout: Train generator and auxiliary with the network's dropout.
        score_dropout: Score with dropout in teacher and auxiliary too (the released code).
        generator: How the generator is optimised.
        auxiliary: How the auxiliary is optimised.
    """

    rollout: Literal["shared", "fresh"] = "shared"
    auxiliary_steps: int = attrs.field(default=1, validator=v.ge(1))
    weight: WeightName = "sum"
    teacher_temperature: float = attrs.field(default=1.0, validator=v.gt(0))
    jacobian: Jacobian = "auxiliary"
    schedule: process.Schedule = "arccos"
    ratio_bounds: tuple[float, float] = attrs.field(
        default=(0.0, 1.0), converter=tuple, validator=_check_bounds
    )
    masking: process.Masking = "exact"
    dropout: bool = False
    score_dropout: bool = False
    generator: Optimisation = attrs.field(factory=lambda: Optimisation(lr=1e-5, ema=0.9999))
    auxiliary: Optimisation = attrs.field(factory=lambda: Optimisation(lr=1e-5))

    def build(self, ingredients: Ingredients) -> "DimoObjective":
        """Load the three networks and bind them to the phases.

        Raises:
            UsageError: if an ingredient is missing, or the teacher cannot be guided as asked.
        """
        i = ingredients
        if i.generator is None or i.auxiliary is None or i.divergence is None or i.guidance is None:
            raise UsageError(
                "the objective 'dimo' needs a generator, an auxiliary, a divergence and a guidance"
            )
        guided = bool((i.guidance.at(torch.linspace(0, 1, 9, device="cpu")) != 1).any())
        if guided and "guidance" not in i.teacher.capabilities:
            raise UsageError(
                f"the guidance scale is not 1, but teacher {type(i.teacher).__name__} has no null condition. "
                "Use --guidance.scale 1."
            )
        p_phi = (i.teacher.skeleton() if i.skeleton else i.teacher.network()).requires_grad_(False)
        step = Step(
            teacher=i.teacher,
            p_phi=p_phi.train(self.score_dropout),
            p_theta=i.generator.build(i.teacher, skeleton=i.skeleton).train(self.dropout),
            p_psi=i.auxiliary.build(i.teacher, skeleton=i.skeleton).train(self.dropout),
            divergence=i.divergence,
            guidance=i.guidance,
            teacher_temperature=self.teacher_temperature,
            weight=WEIGHTS[self.weight],
            jacobian=self.jacobian,
        )
        return DimoObjective(self, step)


class DimoObjective(Objective):
    """Generator and auxiliary, and the phases of a step."""

    def __init__(self, options: Dimo, step: Step) -> None:
        self.options, self.step = options, step

    def parts(self) -> Mapping[str, Part]:
        """``generator`` and ``auxiliary``."""
        return {
            "generator": Part(module=self.step.p_theta, optimisation=self.options.generator),
            "auxiliary": Part(module=self.step.p_psi, optimisation=self.options.auxiliary),
        }

    def frozen(self) -> Mapping[str, nn.Module]:
        """The teacher."""
        return {"teacher": self.step.p_phi}

    def phases(self) -> Sequence[Phase]:
        """One shared phase, or the generator's and then the auxiliary's; further auxiliary phases after."""
        o = self.options
        first = SharedPhase(o, self.step) if o.rollout == "shared" else GeneratorPhase(o, self.step)
        extra = range(1 if o.rollout == "shared" else 0, o.auxiliary_steps)
        return [first, *(AuxiliaryPhase(o, self.step, f"auxiliary{k or ''}") for k in extra)]


class _DimoPhase(Phase):
    def __init__(self, options: Dimo, step: Step) -> None:
        self.options, self.step = options, step

    def remask(self, draws: Draws) -> Remask:
        o = self.options
        length = self.step.teacher.tokens.length
        return draw_remask(length, o.schedule, o.masking, draws, bounds=o.ratio_bounds)

    def global_count(self, remask: Remask, draws: Draws) -> int:
        """Masked tokens of the global batch; known from the draws alone."""
        whole = remask if draws.count == draws.total else self.remask(draws.whole().host())
        return int(whole.counts.sum())

    def watch(self, z_theta: Tensor, z_phi: Tensor, z_psi: Tensor, count: int) -> dict[str, Tensor]:
        """What the log shows besides losses: shares of means over the global batch's masked tokens."""
        with torch.no_grad():
            log_p, log_q, log_g = (z.log_softmax(-1) for z in (z_phi, z_psi, z_theta))
            centred = z_theta - z_theta.mean(-1, keepdim=True)
            share = len(z_theta) / count
            watched = {
                "divergence": self.step.divergence.value(log_p, log_q).sum() / count,
                "entropy_theta": -(log_g.exp() * log_g).sum() / count,
                "entropy_phi": -(log_p.exp() * log_p).sum() / count,
                "logit_scale": centred.square().mean(-1).sqrt().sum() / count,
            }
            diagnostics = self.step.divergence.diagnostics(log_p, log_q)
            return watched | {name: value * share for name, value in diagnostics.items()}


def added(parts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The sums of what parts of the rows give to the log."""
    sums: dict[str, Tensor] = {}
    for part in parts:
        sums = {name: sums[name] + value if name in sums else value for name, value in part.items()}
    return sums


class SharedPhase(_DimoPhase):
    """One rollout and one auxiliary forward pass serve both updates."""

    name, parts = "dimo", ("generator", "auxiliary")

    def accumulate(self, batch: Batch, draws: Draws, *, watch: bool = False) -> Mapping[str, Tensor]:
        """Both gradients."""
        s, c = self.step, batch.conditions
        remask = self.remask(draws)
        count = self.global_count(remask, draws)
        s.p_psi.train(self.options.score_dropout)
        rollout = s.p_theta.rollout(c, draws)
        x_tilde_t = s.x_tilde_t(rollout, remask)
        z_theta, z_phi = s.z_theta(rollout), s.z_phi(x_tilde_t, c, remask)
        z_psi = s.z_psi(x_tilde_t, c, remask)
        w, x_theta = s.w(remask, z_theta, z_phi), rollout.x_theta.flatten()

        def both(rows: Rows) -> dict[str, Tensor]:
            theta, phi, psi = z_theta(rows), z_phi(rows), z_psi(rows)
            s.generator_backward(theta, phi, psi.detach(), w[s.sample(rows)], draws.total)
            logs = {"auxiliary_loss": s.auxiliary_backward(psi, x_theta[rows], count)}
            return logs | (self.watch(theta, phi, psi, count) if watch else {})

        logs = added(map(both, s.parts(remask)))
        z_theta.backward()
        z_psi.backward()
        return logs


class GeneratorPhase(_DimoPhase):
    """The generator's update against the auxiliary as it is (paper, algorithm 1, first half)."""

    name, parts = "generator", ("generator",)

    def accumulate(self, batch: Batch, draws: Draws, *, watch: bool = False) -> Mapping[str, Tensor]:
        """The generator's gradient."""
        s, c = self.step, batch.conditions
        remask = self.remask(draws)
        count = self.global_count(remask, draws)
        s.p_psi.train(self.options.score_dropout)
        rollout = s.p_theta.rollout(c, draws)
        x_tilde_t = s.x_tilde_t(rollout, remask)
        z_theta, z_phi = s.z_theta(rollout), s.z_phi(x_tilde_t, c, remask)
        with torch.no_grad():
            z_psi = s.z_psi(x_tilde_t, c, remask)
        w = s.w(remask, z_theta, z_phi)

        def one(rows: Rows) -> dict[str, Tensor]:
            theta, phi = z_theta(rows), z_phi(rows)
            with torch.no_grad():
                psi = z_psi(rows)
            s.generator_backward(theta, phi, psi, w[s.sample(rows)], draws.total)
            return self.watch(theta, phi, psi, count) if watch else {}

        logs = added(map(one, s.parts(remask)))
        z_theta.backward()
        return logs


class AuxiliaryPhase(_DimoPhase):
    """The auxiliary's update on a fresh rollout of the updated generator (algorithm 1, second half)."""

    parts = ("auxiliary",)

    def __init__(self, options: Dimo, step: Step, name: str) -> None:
        super().__init__(options, step)
        self.name = name

    def accumulate(self, batch: Batch, draws: Draws, *, watch: bool = False) -> Mapping[str, Tensor]:
        """The auxiliary's gradient."""
        s, c = self.step, batch.conditions
        remask = self.remask(draws)
        s.p_psi.train(self.options.dropout)
        with torch.no_grad():
            rollout = s.p_theta.rollout(c, draws)
        z_psi = s.z_psi(s.x_tilde_t(rollout, remask), c, remask)
        count, x_theta = self.global_count(remask, draws), rollout.x_theta.flatten()

        def one(rows: Rows) -> dict[str, Tensor]:
            return {f"{self.name}_loss": s.auxiliary_backward(z_psi(rows), x_theta[rows], count)}

        logs = added(map(one, s.parts(remask)))
        z_psi.backward()
        return logs
