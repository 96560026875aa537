"""The heart of Di[M]O: equations 3 and 4 of the paper, in its symbols.

====================  ==========================================================
``x_init``            masks mixed with random codes, the generator's input
``z_theta``           the generator's logits; ``x_theta`` are tokens drawn from them
``x_tilde_t``         x_theta re-masked, ~ q_{t|0}(. | x_theta)
``z_phi``, ``z_psi``  logits of teacher and auxiliary at x_tilde_t
``grad_z``            gradient of D(p_phi || p_psi) with respect to z_psi, eq. 4
====================  ==========================================================

Heads are evaluated at the K masked rows only; elsewhere the gradient is zero. ``theta``, ``phi`` and ``psi``
give z_theta, z_phi and z_psi of k of them at a time.
"""

from collections.abc import Callable

import attrs
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dimo_core.auxiliary import Auxiliary
from dimo_core.backbone import Backbone, Rows
from dimo_core.conditions import Condition
from dimo_core.device import transfer, widest
from dimo_core.divergence import Divergence
from dimo_core.generator import Generator, Rollout
from dimo_core.guidance import Guidance, guided
from dimo_core.method import losses
from dimo_core.method.logits import Logits, chunks
from dimo_core.method.process import Remask, apply_mask
from dimo_core.method.weighting import Weight
from dimo_core.teacher import Teacher
from dimo_core.tokens import Tokens


@attrs.frozen(kw_only=True, eq=False)
class Step:
    """The models of one Di[M]O step and its named choices.

    Attributes:
        teacher: Token space and null condition.
        p_phi: The teacher's frozen network.
        p_theta: The generator.
        p_psi: The auxiliary.
        divergence: D.
        guidance: Guidance of the teacher.
        teacher_temperature: Divides z_phi; below 1 the generator learns a sharper teacher.
        weight: w(t).
        jacobian: Whose softmax eq. 4 is taken through: the auxiliary's (paper) or the generator's.
    """

    teacher: Teacher
    p_phi: Backbone
    p_theta: Generator
    p_psi: Auxiliary
    divergence: Divergence
    guidance: Guidance
    teacher_temperature: float
    weight: Weight
    jacobian: losses.Jacobian

    def x_tilde_t(self, rollout: Rollout, remask: Remask) -> Tokens:
        """x_tilde_t ~ q_{t|0}(. | x_theta)."""
        return apply_mask(rollout.x_theta, remask.masked, self.teacher.tokens)

    def theta(self, rollout: Rollout) -> Logits:
        """What gives z_theta at x_init."""
        return Logits(rollout.hidden, self.p_theta.head)

    @torch.no_grad()
    def phi(self, x_tilde_t: Tokens, c: Condition, remask: Remask) -> Callable[[Rows], Float[Tensor, "k V"]]:
        """What gives z_phi at x_tilde_t, guided and tempered."""
        scale, ratio = self.guidance.at(remask.ratio), transfer(remask.ratio, x_tilde_t.device)
        z = guided(self.teacher, self.p_phi, x_tilde_t, c, mask_ratio=ratio, scale=scale)
        return torch.no_grad()(lambda rows: z(rows) / self.teacher_temperature)

    def psi(self, x_tilde_t: Tokens, c: Condition, remask: Remask, *, learns: bool) -> Logits:
        """What gives z_psi at x_tilde_t, with a graph where the auxiliary learns from it."""
        with torch.set_grad_enabled(learns):
            hidden = self.p_psi(x_tilde_t, c, mask_ratio=transfer(remask.ratio, x_tilde_t.device))
        return Logits(hidden, self.p_psi.head if learns else torch.no_grad()(self.p_psi.head))

    @torch.no_grad()
    def w(self, remask: Remask, theta: Logits, phi: Callable[[Rows], Tensor]) -> Float[Tensor, " B"]:
        """w(t) of each sample."""

        def distance() -> Float[Tensor, " B"]:
            apart = torch.cat([losses.distance(theta(rows), phi(rows)) for rows in self.chunks(remask)])
            apart = apart.to(widest(apart.device))
            sums = torch.zeros(len(remask.counts), device=apart.device, dtype=apart.dtype)
            sums.index_add_(0, remask.rows // self.teacher.tokens.length, apart)
            return sums / transfer(remask.counts, sums.device)

        return transfer(self.weight(remask.counts, distance), remask.rows.device)

    def chunks(self, remask: Remask) -> tuple[Rows, ...]:
        """The masked rows, so many at a time as logits are to be alive."""
        return chunks(remask.rows, self.teacher.tokens.columns)

    def generator_backward(
        self,
        z_theta: Float[Tensor, "k V"],
        z_phi: Float[Tensor, "k V"],
        z_psi: Float[Tensor, "k V"],
        w: Float[Tensor, " k"],
        batch: int,
    ) -> None:
        """Push w grad_z / B into rows of z_theta (eq. 3); it reaches the generator alone."""
        gradient = losses.generator_gradient(
            z_theta, z_phi, z_psi, w, divergence=self.divergence, batch=batch, jacobian=self.jacobian
        )
        z_theta.backward(gradient)

    def auxiliary_backward(
        self, z_psi: Float[Tensor, "k V"], x_theta: Int[Tensor, " k"], total: int
    ) -> Float[Tensor, ""]:
        """Rows of the auxiliary's loss, a mean over the masked tokens of the global batch."""
        loss = self.p_psi.loss(z_psi, x_theta) / total
        loss.backward()
        return loss.detach()
