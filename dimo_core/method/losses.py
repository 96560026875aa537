"""The losses of Di[M]O as pure functions: tensors in, a gradient or a loss out.

They need nothing else of dimo: a training script of your own may call them at the masked rows of its logits::

    from dimo_core.method.losses import denoising_loss, generator_gradient
    from dimo_divergences import Jeffrey

    z_theta.backward(generator_gradient(z_theta, z_phi, z_psi, w, divergence=Jeffrey(beta=0.2), batch=B))
    (denoising_loss(z_psi, x_theta) / len(z_psi)).backward()

K counts masked rows, (sample, site) pairs of the batch; V the codes.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from dimo_core.backbone import full
from dimo_core.divergence import Divergence, times

Jacobian = Literal["auxiliary", "student"]


@torch.no_grad()
def grad_z(
    z_theta: Float[Tensor, "K V"],
    z_phi: Float[Tensor, "K V"],
    z_psi: Float[Tensor, "K V"],
    *,
    divergence: Divergence,
    jacobian: Jacobian = "auxiliary",
) -> Float[Tensor, "K V"]:
    """Equation 4: the gradient of D(p_phi || p_psi) in the logits z_psi; each row sums to 0.

    Args:
        z_theta: Logits of the generator; read with ``jacobian: student`` only.
        z_phi: Those of the teacher, with guidance and temperature.
        z_psi: Those of the auxiliary.
        divergence: D.
        jacobian: Whose softmax the gradient is taken through: the auxiliary's (paper) or the generator's.
    """
    log_p_phi, log_p_psi = z_phi.log_softmax(-1), z_psi.log_softmax(-1)
    if jacobian == "auxiliary":
        return divergence.grad(log_p_phi, log_p_psi)
    return divergence.student_grad(log_p_phi, log_p_psi, z_theta.log_softmax(-1))


def generator_gradient(
    z_theta: Float[Tensor, "K V"],
    z_phi: Float[Tensor, "K V"],
    z_psi: Float[Tensor, "K V"],
    w: Float[Tensor, " K"],
    *,
    divergence: Divergence,
    batch: int,
    jacobian: Jacobian = "auxiliary",
) -> Float[Tensor, "K V"]:
    """Equation 3: w grad_z / B, what ``z_theta.backward`` is given.

    Args:
        z_theta: Logits of the generator.
        z_phi: Those of the teacher, with guidance and temperature.
        z_psi: Those of the auxiliary.
        w: w(t) of each row's sample.
        divergence: D.
        batch: B, samples in the global batch.
        jacobian: As in ``grad_z``.
    """
    gradient = grad_z(z_theta, z_phi, z_psi, divergence=divergence, jacobian=jacobian)
    return w[:, None].to(gradient) * gradient / batch


def denoising_loss(
    z: Float[Tensor, "K V"],
    x: Int[Tensor, " K"],
    *,
    label_smoothing: float = 0.0,
    w: Float[Tensor, " K"] | None = None,
    restricted: bool = False,
) -> Float[Tensor, ""]:
    """Cross-entropy of tokens at masked rows, summed over the rows, in fp32 at least.

    Args:
        z: Logits.
        x: The tokens that were masked: x_theta for the auxiliary, data for a teacher.
        label_smoothing: Share of the target spread evenly over the codes that are not forbidden (-inf).
        w: Weight of each row; None for 1.
        restricted: Whether some codes are forbidden.
    """
    z = full(z)
    if w is None and not restricted:
        return F.cross_entropy(z, x, reduction="sum", label_smoothing=label_smoothing)
    each = F.cross_entropy(z, x, reduction="none", label_smoothing=0.0 if restricted else label_smoothing)
    if restricted and label_smoothing:
        there = z > -torch.inf
        evenly = -torch.where(there, z.log_softmax(-1), 0.0).sum(-1) / there.sum(-1)
        each = (1 - label_smoothing) * each + label_smoothing * evenly
    return each.sum() if w is None else (each * w.to(each)).sum()


def soft_loss(
    z: Float[Tensor, "K V"], target: Float[Tensor, "K V"], *, w: Float[Tensor, " K"] | None = None
) -> Float[Tensor, ""]:
    """Cross-entropy of distributions at masked rows, summed over the rows, in fp32 at least.

    Its gradient is that of KL(softmax(target) || softmax(z)).

    Args:
        z: Logits.
        target: Logits of the distributions; they get no gradient.
        w: Weight of each row; None for 1.
    """
    z = full(z).clamp_min(torch.finfo(full(z).dtype).min)  # 0 times -inf is none, of what is forbidden
    each = F.cross_entropy(z, full(target).detach().softmax(-1), reduction="none")
    return each.sum() if w is None else (each * w.to(each)).sum()


@torch.no_grad()
def measures(
    z_theta: Float[Tensor, "K V"],
    z_phi: Float[Tensor, "K V"],
    z_psi: Float[Tensor, "K V"],
    *,
    divergence: Divergence,
    total: int,
) -> dict[str, Float[Tensor, ""]]:
    """What the log of a run shows besides losses: these rows' share of means over ``total`` rows."""
    log_p_theta, log_p_phi, log_p_psi = (z.log_softmax(-1) for z in (z_theta, z_phi, z_psi))
    means = {
        "divergence": divergence.value(log_p_phi, log_p_psi).mean(),
        "entropy_theta": entropy(log_p_theta).mean(),
        "entropy_phi": entropy(log_p_phi).mean(),
        "logit_scale": logit_scale(z_theta).mean(),
        **divergence.diagnostics(log_p_phi, log_p_psi),
    }
    return {name: mean * (len(z_theta) / total) for name, mean in means.items()}


def distance(z_theta: Float[Tensor, "K V"], z_phi: Float[Tensor, "K V"]) -> Float[Tensor, " K"]:
    """mean abs(p_theta - p_phi) over the codes of each row, DMD's measure (appendix C)."""
    return (z_theta.softmax(-1) - z_phi.softmax(-1)).abs().mean(-1)


def entropy(log_p: Float[Tensor, "K V"]) -> Float[Tensor, " K"]:
    """The entropy of each row, in nats."""
    return -times(log_p.exp(), log_p).sum(-1)


def logit_scale(z: Float[Tensor, "K V"]) -> Float[Tensor, " K"]:
    """Root mean square of each row's logits about their mean: what drifts when logits grow without bound."""
    there = z > -torch.inf  # what is forbidden has no logit
    count = there.sum(-1, keepdim=True)
    about = torch.where(there, z, 0.0)
    about = torch.where(there, z - about.sum(-1, keepdim=True) / count, 0.0)
    return (about.square().sum(-1) / count.squeeze(-1)).sqrt()
