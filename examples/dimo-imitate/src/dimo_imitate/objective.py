"""The objective ``imitate``."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import attrs
import torch
from dimo_core.backbone import Backbone, full
from dimo_core.divergence import Divergence
from dimo_core.draws import Draws
from dimo_core.errors import UsageError
from dimo_core.generator import Generator
from dimo_core.guidance import Guidance, guided
from dimo_core.objective import (
    Batch,
    Ingredients,
    Objective,
    ObjectiveOptions,
    Optimisation,
    Part,
    Phase,
    Use,
)
from dimo_core.teacher import Teacher
from torch import Tensor, nn


@attrs.frozen(kw_only=True)
class Imitate(ObjectiveOptions):
    """The generator learns what the teacher predicts in one pass from the same x_init.

    D(p_phi(. | x_init, c) || p_theta(. | x_init, c)), averaged over the sites, with the chosen divergence. It
    can be no better than the teacher in one step, and shows all parts of an objective.

    Attributes:
        generator: How the generator is optimised.
    """

    uses: ClassVar[frozenset[Use]] = frozenset({"divergence", "guidance"})

    generator: Optimisation = attrs.field(factory=Optimisation)

    def build(self, ingredients: Ingredients) -> "ImitateObjective":
        """The generator, and the teacher that it imitates.

        Raises:
            UsageError: when an ingredient is missing, or the teacher cannot be guided as asked.
        """
        i = ingredients
        if i.generator is None or i.divergence is None or i.guidance is None:
            raise UsageError("'imitate' needs a generator, a divergence and a guidance")
        i.guidance.check(i.teacher)
        p_phi = i.teacher.skeleton() if i.skeleton else i.teacher.network(share=True)
        p_theta = i.generator.build(i.teacher, skeleton=i.skeleton)
        networks = (p_phi.requires_grad_(False), p_theta.eval())
        phase = ImitatePhase(i.teacher, *networks, i.divergence, i.guidance)
        return ImitateObjective(self, phase)


class ImitateObjective(Objective):
    """One trained part, one phase, and the teacher."""

    def __init__(self, options: Imitate, phase: "ImitatePhase") -> None:
        self.options, self.phase = options, phase

    def parts(self) -> Mapping[str, Part]:
        """``generator``: what is trained, and how."""
        return {"generator": Part(module=self.phase.p_theta, optimisation=self.options.generator)}

    def frozen(self) -> Mapping[str, nn.Module]:
        """``teacher``: what is used and not trained."""
        return {"teacher": self.phase.p_phi}

    def phases(self) -> Sequence[Phase]:
        """One update a step."""
        return [self.phase]


class ImitatePhase(Phase):
    """The gradient of a micro-batch."""

    name, parts, stream = "imitate", ("generator",), "conditions"

    def __init__(
        self,
        teacher: Teacher,
        p_phi: Backbone,
        p_theta: Generator,
        divergence: Divergence,
        guidance: Guidance,
    ) -> None:
        self.teacher, self.p_phi, self.p_theta = teacher, p_phi, p_theta
        self.divergence, self.guidance = divergence, guidance

    def accumulate(self, batch: Batch, draws: Draws, *, watch: bool = False) -> Mapping[str, Tensor]:
        """Its share of the mean over all sites of the global batch that conditions do not give."""
        rollout = self.p_theta.rollout(batch.conditions, draws)
        x, rows = rollout.x_init, torch.arange(rollout.x_init.numel(), device=draws.device)
        total = draws.total * x.shape[1] if batch.valid is None else int(batch.valid.sum())
        z_theta = full(self.p_theta.head(rollout.hidden, rows))
        with torch.no_grad():
            ratio = (x == self.teacher.tokens.mask_id).float().mean(1)
            scale = self.guidance.at(ratio.cpu())
            phi = guided(self.teacher, self.p_phi, x, batch.conditions, mask_ratio=ratio, scale=scale)
            log_p, log_q = phi(rows).log_softmax(-1), z_theta.log_softmax(-1)
            weight = rollout.open(rows) / total
            gradient = self.divergence.grad(log_p, log_q) * weight[:, None]
            loss = (self.divergence.value(log_p, log_q) * weight).sum()
        torch.autograd.backward(z_theta, gradient)  # eq. 4, pushed through the network
        return {"loss": loss}
