"""The objective ``dimo``: the phases in which generator and auxiliary take turns."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import attrs
import torch
from attrs import validators as v
from torch import Tensor, nn

from dimo_core.draws import Draws
from dimo_core.errors import UsageError
from dimo_core.method import process
from dimo_core.method.losses import Jacobian, measures
from dimo_core.method.process import draw_remask
from dimo_core.method.start import Start, from_noise
from dimo_core.method.step import Step
from dimo_core.method.weighting import WEIGHTS, WeightName
from dimo_core.objective import (
    Batch,
    Ingredients,
    Objective,
    ObjectiveOptions,
    Optimisation,
    Part,
    Phase,
    Use,
    add_to,
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
        weight: The weight w(t): none (the released code), 1 / masked tokens (equation 5), 1 / r(t) (IDLM), or
            DMD's normaliser (appendix C).
        auxiliary_weight: The auxiliary's loss is the mean over all masked tokens, or a sum weighted with
            1 / r(t) for each sample (IDLM).
        teacher_temperature: Divides the teacher's logits; below 1 the generator learns a sharper teacher
            (the paper: 1).
        jacobian: Whose softmax equation 4 is taken through: the auxiliary's (the paper) or the generator's.
        schedule: Re-masking schedule r(t).
        ratio_bounds: Least and largest r(t); what the schedule gives is clamped to them.
        masking: Hide exactly round(r(t) L) tokens, or each one with probability r(t).
        dropout: Train generator and auxiliary with the network's dropout.
        score_dropout: Score with dropout in teacher and auxiliary too (the released code). The same as
            ``dropout`` with a shared rollout, where one pass of the auxiliary scores and learns.
        generator: How the generator is optimised.
        auxiliary: How the auxiliary is optimised.
    """

    uses: ClassVar[frozenset[Use]] = frozenset({"auxiliary", "divergence", "guidance"})

    rollout: Literal["shared", "fresh"] = "shared"
    auxiliary_steps: int = attrs.field(default=1, validator=v.ge(1))
    weight: WeightName = "sum"
    auxiliary_weight: Literal["mean", "elbo"] = "mean"
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

    def __attrs_post_init__(self) -> None:
        """Refuse what one pass of the auxiliary cannot do.

        Raises:
            ValueError: with ``rollout: shared``, when it would learn with dropout and score without, or so.
        """
        if self.rollout == "shared" and self.dropout != self.score_dropout:
            raise ValueError(
                "with 'rollout' shared one pass of the auxiliary scores and learns, so 'dropout' and "
                f"'score_dropout' must be equal; got {self.dropout} and {self.score_dropout}. Make them "
                "equal, or choose 'rollout' fresh"
            )

    def start(self) -> Start:
        """Where a rollout begins: at the generator's x_init."""
        return from_noise

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
        i.guidance.check(i.teacher)
        p_phi = (i.teacher.skeleton() if i.skeleton else i.teacher.network(share=True)).requires_grad_(False)
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
            start=self.start(),
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
        """One update of both, or the generator's and then the auxiliary's; further ones of the auxiliary."""
        shared = self.options.rollout == "shared"
        first = ("dimo", ("generator", "auxiliary")) if shared else ("generator", ("generator",))
        further = [
            (f"auxiliary{k or ''}", ("auxiliary",)) for k in range(shared, self.options.auxiliary_steps)
        ]
        return [DimoPhase(self.options, self.step, name, parts) for name, parts in [first, *further]]


class DimoPhase(Phase):
    """Algorithm 1 on a micro-batch: the gradient of the generator, of the auxiliary, or of both."""

    def __init__(self, options: Dimo, step: Step, name: str, parts: tuple[str, ...]) -> None:
        self.options, self.step, self.name, self.parts = options, step, name, parts
        self.generator, self.auxiliary = "generator" in parts, "auxiliary" in parts
        self.loss = "auxiliary_loss" if self.generator else f"{name}_loss"

    def accumulate(self, batch: Batch, draws: Draws, *, watch: bool = False) -> Mapping[str, Tensor]:
        """The masked sites depend on no token: drawn first, on the CPU, they make every shape known."""
        o, s, c, logs = self.options, self.step, batch.conditions, dict[str, Tensor]()
        length, weighted = s.teacher.tokens.length, o.auxiliary_weight == "elbo"
        remask = draw_remask(length, o.schedule, o.masking, draws, bounds=o.ratio_bounds, valid=batch.valid)
        s.p_psi.train(o.score_dropout if self.generator else o.dropout)
        with torch.set_grad_enabled(self.generator):
            rollout = s.start(s.p_theta, batch, draws, remask)  # p_theta(. | x_init, c)
        theta, x_tilde_t = s.theta(rollout, remask, learns=self.generator), s.x_tilde_t(rollout, remask)
        phi = s.phi(x_tilde_t, c, remask) if self.generator or s.p_psi.reads_teacher else None
        w = s.w(remask, theta, phi) * rollout.open(remask.rows) if self.generator and phi else None
        psi = s.psi(x_tilde_t, c, remask, learns=self.auxiliary)
        for k in s.chunks(remask):
            z_theta, z_psi, z_phi = theta(k), psi(k), phi(k) if phi else None
            if w is not None and z_phi is not None:
                s.generator_backward(z_theta, z_phi, z_psi, w[k], draws.total)
                if watch and len(z_psi):
                    add_to(logs, measures(z_theta, z_phi, z_psi, divergence=s.divergence, total=remask.total))
            if self.auxiliary:
                targets = s.targets(rollout, remask, k, z_theta, z_phi, weighted=weighted)
                total = draws.total if weighted else remask.total
                add_to(logs, {self.loss: s.auxiliary_backward(z_psi, targets, total)})
        theta.backward()
        psi.backward()
        return logs
