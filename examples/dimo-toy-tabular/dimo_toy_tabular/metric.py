"""The metric ``tabular``: how far samples are from the exact joint distribution."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import attrs
import torch

from dimo_core.errors import UsageError
from dimo_core.metric import Metric, Samples
from dimo_core.teacher import Teacher
from dimo_toy_tabular.joint import histogram, one_step, total_variation
from dimo_toy_tabular.teacher import Tabular


@attrs.frozen(kw_only=True)
class TotalVariation(Metric):
    """Total variation between the histogram of samples and p(x | c), averaged over the conditions.

    ``tv``: 0 for the joint distribution itself, up to 1. ``of_one_step``: the same as a share of what the
    teacher has when it draws all tokens at once, known exactly as the product of its marginals.
    """

    better: ClassVar[Mapping[str, Literal["larger", "smaller"]]] = {"tv": "smaller", "of_one_step": "smaller"}

    def compute(self, samples: Samples, reference: Samples | None, teacher: Teacher) -> Mapping[str, float]:
        """``tv`` and ``of_one_step``.

        Raises:
            UsageError: for another teacher, whose joint distribution is not known.
        """
        if not isinstance(teacher, Tabular) or samples.tokens is None:
            raise UsageError(
                f"metric 'tabular' judges tokens of the teacher 'tabular', not of {type(teacher).__name__}"
            )
        p, c = teacher.joint(), teacher.encode_conditions(samples.conditions)
        sides = c.unique().tolist()
        tv = torch.stack([total_variation(histogram(samples.tokens[c == side]), p[side]) for side in sides])
        ceiling = total_variation(one_step(p), p)[sides]
        return {"tv": tv.mean().item(), "of_one_step": (tv / ceiling).mean().item()}
