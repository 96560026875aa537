"""The losses of Di4C as pure functions: tensors in, a loss or a gradient out.

===================  =============================================================================
``l``                log p^{n,d}(v), of the student at x_t with lambda_n: ``[B, N, L, V]``
``log_lbar``         log of the mean over n: the mixture's marginals, ``[B, L, V]``
``log_p0``           of the teacher at x_t
``qbar``             mean over n of the student's distributions at x_u^(n), after the teacher's step
``x``                I sequences that are scored: x_0, then x_hat^(1) .. x_hat^(N): ``[B, I, L]``
``joint``            A_n(x) = sum_d l^{n,d}(x^d), ``[B, N, I]``
===================  =============================================================================

All sums run over all sites, masked or not, and over all columns. For one image::

    CV(x)    = (log mean_n exp A_n(x)) - sum_d log lbar^d(x^d)
    L_distil = 1/N sum_n sum_d KL(p0^d || p^{n,d})
    L_cons   = - 1/N sum_i CV(x_hat^(i)) + sum_d KL(qbar^d || lbar^d)
    L_data   = - alpha(u) CV(x_0)        + sum_d KL(p0^d || lbar^d)
    loss     = near / delta L_distil + (1 - near) L_cons + L_data,      near = [u >= 1 - delta]

The gradient in ``l`` is known in closed form, so that N components need not be in memory together: one pass
over them finds ``log_lbar`` and ``joint``, a second one their gradients.
"""

import math
from typing import Literal

import attrs
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dimo_core.device import transfer

Alpha = Literal["sigmoid", "linear", "constant"]


@attrs.frozen(kw_only=True, eq=False)
class Weights:
    """What each term counts in each image.

    Attributes:
        distil: near / delta.
        consistency: 1 - near.
        data_cv: alpha(u).
        marginal: Weight of KL(p0 || lbar), the same for all.
    """

    distil: Float[Tensor, " B"]
    consistency: Float[Tensor, " B"]
    data_cv: Float[Tensor, " B"]
    marginal: float

    def like(self, other: Tensor) -> "Weights":
        """The same in the dtype of another tensor, on its device."""
        distil, consistency, data_cv = (
            transfer(each.to(other.dtype), other.device)
            for each in (self.distil, self.consistency, self.data_cv)
        )
        return attrs.evolve(self, distil=distil, consistency=consistency, data_cv=data_cv)


def weights(
    u: Float[Tensor, " B"], *, delta: float, data_cv: float, alpha: Alpha, marginal: float
) -> Weights:
    """The weights at u; alpha is ``data_cv`` times sigmoid(20 (1/2 - u)), 1 - u or 1."""
    shape = {"sigmoid": (20 * (0.5 - u)).sigmoid(), "linear": 1 - u, "constant": torch.ones_like(u)}[alpha]
    near = (u >= 1 - delta).to(u)
    return Weights(distil=near / delta, consistency=1 - near, data_cv=data_cv * shape, marginal=marginal)


@attrs.frozen(kw_only=True, eq=False)
class Known:
    """What the gradient of each component takes from all of them, besides their ``l``.

    Attributes:
        log_p0: Of the teacher.
        qbar: Mean target.
        log_lbar: The mixture's marginals.
        x: The scored sequences.
        joint: A_n(x).
        cross: sum_n sum_d sum_v p0^d(v) l^{n,d}(v).
    """

    log_p0: Float[Tensor, "B L V"]
    qbar: Float[Tensor, "B L V"]
    log_lbar: Float[Tensor, "B L V"]
    x: Int[Tensor, "B I L"]
    joint: Float[Tensor, "B N I"]
    cross: Float[Tensor, " B"]


def log_likelihoods(l: Float[Tensor, "B N L V"], x: Int[Tensor, "B I L"]) -> Float[Tensor, "B N I"]:  # noqa: E741
    """A_n(x): the log-probability of each sequence in each component, summed over all sites."""
    return l.gather(-1, x.transpose(1, 2)[:, None].expand(-1, l.shape[1], -1, -1)).sum(2)


class Mixing:
    """What the first pass over the components gathers; it is as large for any number of them.

    Args:
        log_p0: Of the teacher.
        qbar: Mean target.
        x: The scored sequences.
    """

    def __init__(
        self, log_p0: Float[Tensor, "B L V"], qbar: Float[Tensor, "B L V"], x: Int[Tensor, "B I L"]
    ) -> None:
        self.log_p0, self.qbar, self.x = log_p0, qbar, x
        self.log_sum = torch.full_like(log_p0, -torch.inf)
        self.cross = torch.zeros_like(log_p0[:, 0, 0])
        self.joint: list[Tensor] = []

    def add(self, l: Float[Tensor, "B n L V"]) -> None:  # noqa: E741
        """Some components more."""
        self.log_sum = torch.logaddexp(self.log_sum, l.logsumexp(1))
        self.cross = self.cross + (self.log_p0.exp() * l.sum(1)).sum((1, 2))
        self.joint.append(log_likelihoods(l, self.x))

    def known(self) -> Known:
        """After all of them."""
        joint = torch.cat(self.joint, 1)
        return Known(
            log_p0=self.log_p0,
            qbar=self.qbar,
            log_lbar=self.log_sum - math.log(joint.shape[1]),
            x=self.x,
            joint=joint,
            cross=self.cross,
        )


def control_variates(known: Known) -> Float[Tensor, "B I"]:
    """CV(x): the log-likelihood of the mixture over that of the product of its marginals; 0 where N is 1."""
    together = known.joint.logsumexp(1) - math.log(known.joint.shape[1])
    return together - log_likelihoods(known.log_lbar[:, None], known.x)[:, 0]


@attrs.frozen(kw_only=True, eq=False)
class Terms:
    """The terms of each image without their weights, by the names of the formulas above.

    Attributes:
        distil: L_distil.
        consistency_cv: - 1/N sum_i CV(x_hat^(i)).
        consistency_marginal: sum_d KL(qbar^d || lbar^d).
        data_cv: - CV(x_0).
        data_marginal: sum_d KL(p0^d || lbar^d).
    """

    distil: Float[Tensor, " B"]
    consistency_cv: Float[Tensor, " B"]
    consistency_marginal: Float[Tensor, " B"]
    data_cv: Float[Tensor, " B"]
    data_marginal: Float[Tensor, " B"]

    def weighted(self, w: Weights) -> dict[str, Float[Tensor, " B"]]:
        """``distil``, ``consistency`` and ``data`` of each image, whose sum is its loss."""
        return {
            "distil": w.distil * self.distil,
            "consistency": w.consistency * (self.consistency_cv + self.consistency_marginal),
            "data": w.data_cv * self.data_cv + w.marginal * self.data_marginal,
        }


def terms(known: Known) -> Terms:
    """The terms of the loss."""
    cv, p0 = control_variates(known), known.log_p0.exp()
    certainty = (p0 * known.log_p0).sum((1, 2))
    return Terms(
        distil=certainty - known.cross / known.joint.shape[1],
        consistency_cv=-cv[:, 1:].mean(1),
        consistency_marginal=(torch.special.xlogy(known.qbar, known.qbar) - known.qbar * known.log_lbar).sum(
            (1, 2)
        ),
        data_cv=-cv[:, 0],
        data_marginal=certainty - (p0 * known.log_lbar).sum((1, 2)),
    )


def gradient(
    l: Float[Tensor, "B n L V"],  # noqa: E741
    some: slice,
    known: Known,
    w: Weights,
    total: int,
) -> Float[Tensor, "B n L V"]:
    """The gradient of the mean loss in the logits of some components, what their ``backward`` is given.

    With omega^{n,d}(v) = exp(l^{n,d}(v) - log lbar^d(v)) / N and w_n(x) = softmax_n A_n(x), in ``l`` it is::

        G = 1/B { - near / (delta N) p0^d(v) - p0^d(v) omega + alpha [v = x_0^d] (omega - w_n(x_0))
                  + (1 - near) (- qbar^d(v) omega + 1/N sum_i [v = x_hat_i^d] (omega - w_n(x_hat_i))) }

    and in the logits G - softmax(l) sum_v G.

    Args:
        l: Of these components.
        some: Which they are among all.
        known: What all of them gave.
        w: Weights of the terms.
        total: B of the global batch.
    """
    count = known.joint.shape[1]
    each = torch.cat([w.data_cv[:, None], (w.consistency / count)[:, None].expand(-1, count)], 1)
    places, p0 = known.x.transpose(1, 2), known.log_p0.exp()
    pull = w.marginal * p0 + w.consistency[:, None, None] * known.qbar
    push = torch.zeros_like(pull).scatter_add_(-1, places, each[:, None].expand(places.shape))
    shares = each[:, None] * known.joint.softmax(1)[:, some]
    g = (l - known.log_lbar[:, None]).exp().div_(count).mul_((push - pull)[:, None])
    g -= (w.distil / count)[:, None, None, None] * p0[:, None]
    where = places[:, None].expand(-1, g.shape[1], -1, -1)
    g.scatter_add_(-1, where, -shares[:, :, None].expand(where.shape))
    return (g - l.exp() * g.sum(-1, keepdim=True)).div_(total)
