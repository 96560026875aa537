"""The metric ``gym``: samples against a known joint distribution."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import attrs
import torch

from dimo_core.errors import UsageError
from dimo_core.metric import Metric, Samples
from dimo_core.teacher import Teacher
from dimo_gym.distances import compared
from dimo_gym.partial import places
from dimo_gym.teacher import GymTeacher


@attrs.frozen(kw_only=True)
class GymMetric(Metric):
    """``tv`` between the samples' histogram and p(x | c), and ``outside``, the share of impossible samples.

    The histogram of exact samples has a ``tv`` above 0 too. `dimo gym` measures without samples.
    """

    better: ClassVar[Mapping[str, Literal["larger", "smaller"]]] = {"tv": "smaller", "outside": "smaller"}

    def compute(self, samples: Samples, reference: Samples | None, teacher: Teacher) -> Mapping[str, float]:
        """``tv`` and ``outside``, averaged over the conditions.

        Raises:
            UsageError: for another teacher, whose joint distribution is not known.
        """
        if not isinstance(teacher, GymTeacher) or samples.tokens is None:
            raise UsageError(
                f"metric 'gym' judges tokens of the teacher 'gym', not of {type(teacher).__name__}"
            )
        p, c = teacher.p(), teacher.encode_conditions(samples.conditions)
        at = places(samples.tokens, teacher.tokens.codes)
        found = [compared(p[k], _histogram(at[c == k], p.shape[1])) for k in c.unique().tolist()]
        return {name: sum(getattr(one, name) for one in found) / len(found) for name in ("tv", "outside")}


def _histogram(at: torch.Tensor, count: int) -> torch.Tensor:
    return at.bincount(minlength=count).double() / len(at)
