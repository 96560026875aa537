"""The heart of Di[M]O: equations 3 and 4 of the paper, in its symbols.

====================  ==========================================================
``x_init``            masks mixed with random codes, the generator's input
``z_theta``           the generator's logits; ``x_theta`` are tokens drawn from them
``x_tilde_t``         x_theta re-masked, ~ q_{t|0}(. | x_theta)
``z_phi``, ``z_psi``  logits of teacher and auxiliary at x_tilde_t
``grad_z``            gradient of D(p_phi || p_psi) with respect to z_psi, eq. 4
====================  ==========================================================

Times and masked sites depend on no token, so they are drawn on the CPU before any network runs: every
shape is known and an accelerator is never waited for. Heads are evaluated at the K masked rows only;
elsewhere the gradient is zero. They are evaluated for some rows at a time: a [K, V] tensor of a text-to-image
teacher is as large as its network, and equations 3 and 4 need ten of them.
"""

from collections.abc import Callable
from typing import Literal

import attrs
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dimo_core.auxiliary import Auxiliary
from dimo_core.backbone import Backbone, Rows, row_parts
from dimo_core.conditions import Condition
from dimo_core.device import transfer
from dimo_core.divergence import Divergence
from dimo_core.generator import Generator, Rollout
from dimo_core.guidance import Guidance, guided
from dimo_core.method import process
from dimo_core.method.logits import Logits
from dimo_core.method.process import Remask
from dimo_core.method.weighting import Weight
from dimo_core.teacher import Teacher
from dimo_core.tokens import Tokens

Jacobian = Literal["auxiliary", "student"]


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
    jacobian: Jacobian

    def x_tilde_t(self, rollout: Rollout, remask: Remask) -> Tokens:
        """x_tilde_t ~ q_{t|0}(. | x_theta)."""
        return process.apply_mask(rollout.x_theta, remask.masked, self.teacher.tokens)

    def z_theta(self, rollout: Rollout) -> Logits:
        """The generator's logits."""
        return Logits(rollout.hidden, self.p_theta.head)

    def z_psi(self, x_tilde_t: Tokens, c: Condition, remask: Remask) -> Logits:
        """The auxiliary's logits."""
        hidden = self.p_psi(x_tilde_t, c, mask_ratio=transfer(remask.ratio, x_tilde_t.device))
        return Logits(hidden, self.p_psi.head)

    @torch.no_grad()
    def z_phi(
        self, x_tilde_t: Tokens, c: Condition, remask: Remask
    ) -> Callable[[Rows], Float[Tensor, "k V"]]:
        """The teacher's guided, tempered logits."""
        scale, ratio = self.guidance.at(remask.ratio), transfer(remask.ratio, x_tilde_t.device)
        z = guided(self.teacher, self.p_phi, x_tilde_t, c, mask_ratio=ratio, scale=scale)
        return torch.no_grad()(lambda rows: z(rows) / self.teacher_temperature)

    def parts(self, remask: Remask) -> tuple[Int[Tensor, " _"], ...]:
        """The masked rows, so many at a time as logits are to be alive."""
        return row_parts(remask.rows, self.teacher.tokens.columns)

    @torch.no_grad()
    def w(self, remask: Remask, z_theta: Logits, z_phi: Callable[[Rows], Tensor]) -> Float[Tensor, " B"]:
        """w(t) of each sample."""

        def distance() -> Float[Tensor, " B"]:
            sums = torch.zeros(len(remask.counts), device=remask.rows.device, dtype=torch.float64)
            for rows in self.parts(remask):
                apart = (z_theta(rows).softmax(-1) - z_phi(rows).softmax(-1)).abs().mean(1)
                sums.index_add_(0, self.sample(rows), apart.double())
            return sums / transfer(remask.counts, sums.device)

        return transfer(self.weight(remask.counts, distance), remask.rows.device)

    def sample(self, rows: Rows) -> Rows:
        """The sample that each row belongs to."""
        return rows // self.teacher.tokens.length

    def generator_backward(
        self,
        z_theta: Float[Tensor, "k V"],
        z_phi: Float[Tensor, "k V"],
        z_psi: Float[Tensor, "k V"],
        w: Float[Tensor, " k"],
        total: int,
    ) -> None:
        """Push w grad_z / B into rows of z_theta (eq. 3); gradients reach the generator alone."""
        with torch.no_grad():
            log_p_phi, log_p_psi = z_phi.log_softmax(-1), z_psi.log_softmax(-1)
            if self.jacobian == "auxiliary":
                grad_z = self.divergence.grad(log_p_phi, log_p_psi)  # eq. 4
            else:
                grad_z = self.divergence.student_grad(log_p_phi, log_p_psi, z_theta.log_softmax(-1))
        z_theta.backward(w[:, None].to(grad_z) * grad_z / total)  # eq. 3

    def auxiliary_backward(
        self, z_psi: Float[Tensor, "k V"], x_theta: Int[Tensor, " k"], count: int
    ) -> Float[Tensor, ""]:
        """Cross-entropy of rows of z_psi against x_theta, over the global count of masked rows."""
        loss = self.p_psi.loss(z_psi, x_theta) / count
        loss.backward()
        return loss.detach()
