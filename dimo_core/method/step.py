"""The heart of Di[M]O: equations 3 and 4 of the paper, in its symbols.

====================  ==========================================================
``x_init``            masks mixed with random codes, the generator's input
``z_theta``           the generator's logits; ``x_theta`` are tokens drawn from them
``x_tilde_t``         x_theta re-masked, ~ q_{t|0}(. | x_theta)
``z_phi``, ``z_psi``  logits of teacher and auxiliary at x_tilde_t
``grad_z``            gradient of D(p_phi || p_psi) with respect to z_psi, eq. 4
====================  ==========================================================

Gradients are those of the K masked rows. ``theta``, ``phi`` and ``psi`` give z_theta, z_phi and z_psi of k of
them at a time.
"""

from collections.abc import Callable

import attrs
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dimo_core.auxiliary import Auxiliary, Targets
from dimo_core.backbone import Backbone
from dimo_core.conditions import Condition
from dimo_core.device import transfer, widest
from dimo_core.divergence import Divergence
from dimo_core.generator import Generator, Rollout
from dimo_core.guidance import Guidance, guided
from dimo_core.method import losses
from dimo_core.method.logits import Chunk, Logits, chunks
from dimo_core.method.process import Remask
from dimo_core.method.start import Start, from_noise
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
        start: Where a rollout begins.
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
    start: Start = from_noise

    @torch.no_grad()
    def x_tilde_t(self, rollout: Rollout, remask: Remask) -> Tokens:
        """x_tilde_t ~ q_{t|0}(. | x_theta); of x_theta what stays visible is drawn, and nothing else."""
        x = torch.full_like(rollout.x_init, self.teacher.tokens.mask_id).flatten()
        z = Logits(rollout.hidden, remask.kept, self.p_theta)
        for k in chunks(len(remask.kept), len(x), self.teacher.tokens.columns):
            x[remask.kept[k]] = rollout.x_theta(z(k), remask.kept[k])
        return x.view_as(rollout.x_init)

    def theta(self, rollout: Rollout, remask: Remask, *, learns: bool) -> Logits:
        """What gives z_theta at x_init, with a graph where the generator learns from it."""
        return Logits(rollout.hidden, remask.rows, self.p_theta, learns=learns)

    @torch.no_grad()
    def phi(self, x_tilde_t: Tokens, c: Condition, remask: Remask) -> Callable[[slice], Chunk]:
        """What gives z_phi at x_tilde_t, guided and tempered."""
        scale, ratio = self.guidance.at(remask.ratio), transfer(remask.ratio, x_tilde_t.device)
        z = guided(self.teacher, self.p_phi, x_tilde_t, c, mask_ratio=ratio, scale=scale)
        return torch.no_grad()(lambda k: z(remask.rows[k]) / self.teacher_temperature)

    def psi(self, x_tilde_t: Tokens, c: Condition, remask: Remask, *, learns: bool) -> Logits:
        """What gives z_psi at x_tilde_t, with a graph where the auxiliary learns from it."""
        with torch.set_grad_enabled(learns):
            hidden = self.p_psi(x_tilde_t, c, mask_ratio=transfer(remask.ratio, x_tilde_t.device))
        return Logits(hidden, remask.rows, self.p_psi, learns=learns)

    @torch.no_grad()
    def w(self, remask: Remask, theta: Logits, phi: Callable[[slice], Tensor]) -> Float[Tensor, " K"]:
        """w(t) of each masked row's sample."""
        sample = remask.rows // self.teacher.tokens.length

        def distance() -> Float[Tensor, " B"]:
            apart = torch.cat([losses.distance(theta(k), phi(k)) for k in self.chunks(remask)])
            sums = torch.zeros(len(remask.counts), device=apart.device, dtype=widest(apart.device))
            return sums.index_add_(0, sample, apart.to(sums)) / transfer(remask.counts, sums.device)

        return transfer(self.weight(remask, distance), sample.device)[sample]

    def chunks(self, remask: Remask) -> list[slice]:
        """Which masked rows at a time, so many as logits are to be alive."""
        return chunks(len(remask.rows), remask.masked.numel(), self.teacher.tokens.columns)

    def generator_backward(
        self, z_theta: Chunk, z_phi: Chunk, z_psi: Chunk, w: Float[Tensor, " k"], batch: int
    ) -> None:
        """Push w grad_z / B into rows of z_theta (eq. 3); it reaches the generator alone."""
        gradient = losses.generator_gradient(
            z_theta, z_phi, z_psi, w, divergence=self.divergence, batch=batch, jacobian=self.jacobian
        )
        z_theta.backward(gradient)

    def targets(
        self,
        rollout: Rollout,
        remask: Remask,
        k: slice,
        z_theta: Chunk,
        z_phi: Chunk | None,
        *,
        weighted: bool,
    ) -> Targets:
        """What the auxiliary learns at some of the masked rows; 1 / r(t) of each where ``weighted``."""
        rows = remask.rows[k]
        sample = rows // self.teacher.tokens.length
        w = transfer(remask.ratio.double().reciprocal(), rows.device)[sample] if weighted else None
        z = rollout.settled(z_theta, rows)
        return Targets(x_theta=rollout.x_theta(z_theta, rows), z_theta=z, z_phi=z_phi, w=w)

    def auxiliary_backward(
        self, z_psi: Chunk, x_theta: Int[Tensor, " k"] | Targets, total: int
    ) -> Float[Tensor, ""]:
        """Rows of the auxiliary's loss, of which ``total`` make the mean over the masked tokens of the batch.

        Args:
            z_psi: The auxiliary's logits.
            x_theta: The tokens that were hidden there, or all that it may learn from.
            total: Masked tokens of the global batch, or its samples where rows have weights.
        """
        targets = x_theta if isinstance(x_theta, Targets) else Targets(x_theta=x_theta)
        loss = self.p_psi.learn(z_psi, targets) / total
        loss.backward()
        return loss.detach()
