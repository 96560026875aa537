"""``Divergence`` (D): compares the teacher's p_phi with the auxiliary's p_psi, token by token.

Written p = p_phi and q = p_psi = softmax(z_psi). Everything follows from the potential u = dD/dq:

    grad_z D = q (u - E_q u)                                       (eq. 4 for every D)

A divergence is written in one of three ways, each complete by itself:

* ``value`` alone: autograd gives the gradient;
* ``value`` and ``potential``, and a closed ``grad`` where u itself would overflow;
* ``f`` alone, on ``FDivergence``, for D = sum_j q_j f(p_j / q_j).

Inputs are log-probabilities, never probabilities: p and q may underflow, log p and log q do not.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from dimo_core.errors import PluginError

Own = TypeVar("Own", bound="Divergence")


def log_ratio(log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
    """log(p / q), with 0 where both are equal: two exact zeros (-inf) agree, they are not NaN."""
    return torch.where(log_p == log_q, 0.0, log_p - log_q)


def clipped_share(
    log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"], log_ratio_max: float | int
) -> Float[Tensor, ""]:
    """Share of all entries with abs(log p/q) above ``log_ratio_max``."""
    clipped = log_ratio(log_p, log_q).abs() > log_ratio_max
    return clipped.to(log_q.dtype).mean()


def times(w: Float[Tensor, "*N V"], x: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
    """w x for weights w >= 0, with 0 inf = 0: codes without probability count for nothing."""
    return torch.where(w == 0, 0.0, w * x)


def project(log_w: Float[Tensor, "*N V"], u: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
    """w (u - E_w u): the pull-back of u through w = softmax(z).

    u is first counted from its value at the likeliest code. The result is the same, but where w is almost
    one-hot nothing cancels any more.
    """
    w, top = log_w.exp(), log_w.argmax(-1, keepdim=True)
    flux = times(w, u - u.gather(-1, top))
    return flux - w * flux.sum(-1, keepdim=True)


def project_flux(log_w: Float[Tensor, "*N V"], flux: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
    """The same from the products ``flux`` = w u, for a u that overflows where w underflows."""
    w, top = log_w.exp(), log_w.argmax(-1, keepdim=True)
    u_top = flux.gather(-1, top) / w.gather(-1, top)
    flux = (flux - w * u_top).scatter(-1, top, 0.0)
    return flux - w * flux.sum(-1, keepdim=True)


def transport(
    log_p: Float[Tensor, "*N V"],
    log_q: Float[Tensor, "*N V"],
    log_w: Float[Tensor, "*N V"],
    log_r: Float[Tensor, "*N V"],
) -> Float[Tensor, "*N V"]:
    """log(p w/q), what w p/q is without forming p/q; it is log p itself where w = q.

    Where ``log_r`` is log(p/q) clipped from above, w r takes over before w/q can overflow.
    """
    bound = torch.fmax(log_p, log_w + log_r)  # fmax: w = 0 and r = inf set no bound
    return torch.minimum(log_p + log_ratio(log_w, log_q), bound)


def _derivative(total: Tensor, leaf: Tensor, what: str) -> Tensor:
    """d total / d leaf.

    Raises:
        PluginError: if ``total`` cannot be differentiated.
    """
    if not total.requires_grad:
        raise PluginError(
            f"{what} has no gradient in its tensor argument. Compute it with differentiable torch "
            "operations, or give potential(log_p, log_q) too."
        )
    (slope,) = torch.autograd.grad(total, leaf)
    return slope


class Divergence(ABC):
    """D(p || q) for every token; a subclass is a frozen keyword-only attrs class of its options.

    The results have the dtype of the inputs. Nothing is repaired: a divergence that is infinite says so,
    and the engine stops the run.
    """

    def __new__(cls: type[Own], *args: Any, **options: Any) -> Own:
        """Refuse a class that cannot compute anything.

        Raises:
            PluginError: if it gives neither ``value`` nor, on ``FDivergence``, ``f``.
        """
        if missing := sorted(cls.__abstractmethods__):
            raise PluginError(
                f"divergence {cls.__module__}.{cls.__qualname__} does not define {', '.join(missing)}. "
                "A divergence gives value(log_p, log_q), with or without potential and grad; or it derives "
                "from FDivergence and gives f(r). Define one; docs/divergences.md shows all three ways."
            )
        return object.__new__(cls)

    @abstractmethod
    def value(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N"]:
        """D(p || q) per token, in nats.

        Args:
            log_p: Log-probabilities of the teacher, normalised over the last axis.
            log_q: Those of the auxiliary.
        """

    def potential(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
        """u = dD/dq, up to a constant per token, which drops out of every gradient.

        Without a subclass's own formula it is (dD/dlog q) / q by autograd through ``value``.
        """
        flux = self._flux_of_value(log_p, log_q)
        return torch.where(flux == 0, 0.0, flux * (-log_q).exp())

    def grad(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
        """grad_z D = q (u - E_q u): the gradient with respect to the logits z_psi (eq. 4).

        Rows sum to 0. The result carries no graph, and works inside ``torch.no_grad`` whatever computes it.
        """
        return self.student_grad(log_p, log_q, log_q)

    @torch.no_grad()
    def student_grad(
        self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"], log_w: Float[Tensor, "*N V"]
    ) -> Float[Tensor, "*N V"]:
        """w (u - E_w u): the same u, projected with other weights w (``jacobian: student``, w = p_theta).

        Args:
            log_p: Log-probabilities of the teacher.
            log_q: Those of the auxiliary, at which u is taken.
            log_w: Those of the weights; ``log_q`` gives ``grad``.
        """
        if type(self).potential is not Divergence.potential:
            return project(log_w, self.potential(log_p, log_q))
        flux = self._flux_of_value(log_p, log_q)
        return project_flux(log_w, torch.where(flux == 0, 0.0, flux * log_ratio(log_w, log_q).exp()))

    def diagnostics(
        self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]
    ) -> Mapping[str, Float[Tensor, ""]]:
        """Scalars for the log, such as the share of clipped entries; none by default."""
        return {}

    def _flux_of_value(
        self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]
    ) -> Float[Tensor, "*N V"]:
        """The products q u = dD/dlog q, by autograd."""
        with torch.enable_grad():
            leaf = log_q.detach().requires_grad_()
            total = self.value(log_p.detach(), leaf).sum()
            return _derivative(total, leaf, f"value of divergence {type(self).__qualname__}")


class FDivergence(Divergence):
    """D = sum_j q_j f(r_j) with r = p / q; a subclass gives only ``f``.

    With f convex and f(1) = 0 this is a divergence. u = f(r) - r f'(r), f' by autograd. log r is clipped to
    +-``log_ratio_max``, so that f sees r in [1e-13, 1e13] and may square it in fp32; where r > 1 the sums are
    formed as p (f / r), so that an underflowing q loses nothing. ``clipped_share`` in the log says how much
    was clipped. A subclass may override the limit by an attribute or an option of the same name.
    """

    log_ratio_max: float = 30.0

    @abstractmethod
    def f(self, r: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
        """The generator f at r = p / q > 0, elementwise, of differentiable torch operations.

        For example ``(r.sqrt() - 1) ** 2`` for squared Hellinger, or ``r * r.log()`` for the forward KL.
        """

    def value(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N"]:
        """sum_j q_j f(r_j)."""
        r = self._log_r(log_p, log_q).exp()
        f = self.f(r)
        return torch.where(r > 1, log_p.exp() * (f / r), log_q.exp() * f).sum(-1)

    def potential(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
        """u = f(r) - r f'(r)."""
        with torch.enable_grad():
            r = self._log_r(log_p, log_q).exp().detach().requires_grad_()
            f = self.f(r)
            slope = _derivative(f.sum(), r, f"f of divergence {type(self).__qualname__}")
        return (f - r * slope).detach()

    @torch.no_grad()
    def student_grad(
        self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"], log_w: Float[Tensor, "*N V"]
    ) -> Float[Tensor, "*N V"]:
        """w (u - E_w u)."""
        u, log_r = self.potential(log_p, log_q), self._log_r(log_p, log_q)
        r = log_r.exp()
        flux = torch.where(r > 1, transport(log_p, log_q, log_w, log_r).exp() * (u / r), log_w.exp() * u)
        return project_flux(log_w, flux)

    def diagnostics(
        self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]
    ) -> Mapping[str, Float[Tensor, ""]]:
        """``clipped_share``: share of entries whose log-ratio was clipped."""
        return {"clipped_share": clipped_share(log_p, log_q, self.log_ratio_max)}

    def _log_r(self, log_p: Float[Tensor, "*N V"], log_q: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
        """log(p / q), clipped."""
        return log_ratio(log_p, log_q).clamp(-self.log_ratio_max, self.log_ratio_max)
