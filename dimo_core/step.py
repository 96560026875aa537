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
elsewhere the gradient is zero.
"""

from typing import Literal

import attrs
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dimo_core import process
from dimo_core.auxiliary import Auxiliary
from dimo_core.backbone import Backbone, Rows
from dimo_core.device import transfer
from dimo_core.divergence import Divergence
from dimo_core.draws import Draws
from dimo_core.generator import Generator, Rollout
from dimo_core.guidance import Guidance, full, guided_logits
from dimo_core.teacher import Teacher
from dimo_core.tokens import Tokens
from dimo_core.tree import Condition
from dimo_core.weights import Weight

Jacobian = Literal["auxiliary", "student"]


@attrs.frozen(kw_only=True, eq=False)
class Remask:
    """Where q_{t|0} hides tokens; ratio and counts stay on the CPU.

    Attributes:
        ratio: r(t) of each sample.
        counts: Masked tokens of each sample.
        masked: The masked sites, on the training device.
        rows: The same sites as flat indices into B * L, sample by sample.
    """

    ratio: Float[Tensor, " B"]
    counts: Int[Tensor, " B"]
    masked: Bool[Tensor, "B L"]
    rows: Rows


def draw_remask(
    length: int,
    schedule: process.Schedule,
    masking: process.Masking,
    draws: Draws,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Remask:
    """t ~ U[0, 1], r(t) clamped to ``bounds``, and the sites that q_{t|0} will hide."""
    host = draws.host()
    ratio = process.mask_ratio(host.uniform("t"), schedule).clamp(*bounds)
    masked = process.draw_mask(ratio, length, host, masking)
    rows = masked.flatten().nonzero().squeeze(1)
    return Remask(
        ratio=ratio,
        counts=masked.sum(1),
        masked=transfer(masked, draws.device),
        rows=transfer(rows, draws.device),
    )


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

    def z_psi(self, x_tilde_t: Tokens, c: Condition, remask: Remask) -> Float[Tensor, "K V"]:
        """The auxiliary's logits at the masked rows."""
        return full(
            self.p_psi(x_tilde_t, c, mask_ratio=transfer(remask.ratio, x_tilde_t.device), rows=remask.rows)
        )

    @torch.no_grad()
    def z_phi(self, x_tilde_t: Tokens, c: Condition, remask: Remask) -> Float[Tensor, "K V"]:
        """The teacher's guided, tempered logits at the masked rows."""
        scale, ratio = self.guidance.at(remask.ratio), transfer(remask.ratio, x_tilde_t.device)
        z = guided_logits(
            self.teacher, self.p_phi, x_tilde_t, c, mask_ratio=ratio, scale=scale, rows=remask.rows
        )
        return z / self.teacher_temperature

    def generator_backward(
        self, rollout: Rollout, remask: Remask, z_phi: Tensor, z_psi: Tensor, total: int
    ) -> Float[Tensor, "K V"]:
        """Push w grad_z / B into z_theta (eq. 3); gradients reach the generator alone. Returns z_theta."""
        z_theta = full(self.p_theta.head(rollout.hidden, remask.rows))
        with torch.no_grad():
            log_p_phi, log_p_psi, log_p_theta = (z.log_softmax(-1) for z in (z_phi, z_psi, z_theta))
            if self.jacobian == "auxiliary":
                grad_z = self.divergence.grad(log_p_phi, log_p_psi)  # eq. 4
            else:
                grad_z = self.divergence.student_grad(log_p_phi, log_p_psi, log_p_theta)
            w = self.weight(remask.counts, log_p_theta, log_p_phi)
        z_theta.backward(w[:, None] * grad_z / total)  # eq. 3
        return z_theta.detach()

    def auxiliary_backward(
        self, rollout: Rollout, remask: Remask, z_psi: Tensor, count: int
    ) -> Float[Tensor, ""]:
        """Cross-entropy of z_psi against x_theta at the masked rows, over the global count of them."""
        loss = self.p_psi.loss(z_psi, rollout.x_theta.flatten()[remask.rows]) / count
        loss.backward()
        return loss.detach()
