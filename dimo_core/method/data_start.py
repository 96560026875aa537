"""The objectives ``dimo-data`` and ``idlm``: Di[M]O's step on completions of re-masked data."""

from typing import ClassVar, Literal

import attrs
from attrs import validators as v

from dimo_core.method import process
from dimo_core.method.dimo import Dimo
from dimo_core.method.losses import Jacobian
from dimo_core.method.start import FromData, Start
from dimo_core.method.weighting import WeightName
from dimo_core.objective import Stream


@attrs.frozen(kw_only=True)
class DimoData(Dimo):
    """Di[M]O from a data start: the generator completes x_t ~ q_{t|0}(. | x_0) instead of x_init.

    Attributes:
        corruption: How what it completed is masked again: ``fresh`` hides any site (IDLM), ``posterior`` only
            such as were masked in x_t, so that visible tokens stay (D-MMD).
        horizon: With ``posterior``, the largest t - s between the two masks; 1 / steps of the generator.
    """

    needs: ClassVar[frozenset[Stream]] = frozenset({"data"})

    corruption: Literal["fresh", "posterior"] = "fresh"
    horizon: float = attrs.field(default=0.25, validator=[v.gt(0), v.le(1)])

    def start(self) -> Start:
        """Re-masked data."""
        return FromData(
            schedule=self.schedule,
            masking=self.masking,
            bounds=self.ratio_bounds,
            horizon=self.horizon if self.corruption == "posterior" else None,
        )


@attrs.frozen(kw_only=True)
class Idlm(DimoData):
    """Inverse distillation of a masked diffusion model (IDLM, arXiv 2602.19066), and D-MMD (2603.20155).

    For x_t ~ q_{t|0}(. | x_0), p = p_theta(. | x_t) and x' re-masked from a draw of p::

        generator: 1/B sum over masked sites of x'  1/t'  sum_v p_v (log p_psi(v | x') - log p_phi(v | x'))
        auxiliary: 1/B sum over masked sites of x'  1/t'  sum_v p_v (- log p_psi(v | x'))

    This is ``dimo-data`` with the student's Jacobian, the weight 1 / r(t') and a rollout for each of both. It
    takes ``--divergence rkl --auxiliary.soft 1``. D-MMD is ``--objective.corruption posterior`` with
    ``--divergence rkl --auxiliary.teacher_weight 1``.
    """

    rollout: Literal["shared", "fresh"] = "fresh"
    weight: WeightName = "elbo"
    auxiliary_weight: Literal["mean", "elbo"] = "elbo"
    jacobian: Jacobian = "student"
    schedule: process.Schedule = "linear"
    masking: process.Masking = "bernoulli"
