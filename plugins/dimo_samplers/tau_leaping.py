"""Tau-leaping: the jump rates stay those of the step's beginning (Campbell et al., arXiv 2205.14987)."""

from itertools import pairwise

import attrs
from attrs import validators as v

from dimo_samplers.kernel import first_jump, posterior
from dimo_samplers.staged import Law, Stage, StagedSampler, ratios


@attrs.frozen(kw_only=True)
class TauLeapingSampler(StagedSampler):
    """Each step from t to t - h jumps at the rates mu = softmax(z) / t, first jump only; one pass a step.

    Attributes:
        delta: Mask ratio at which the last step begins, which gives every site that is left a code; at 0 it
            is like the others. The authors' code for MaskGIT stops at 0.01.
        schedule: The mask ratio r(t) at the times t = 1 - i / steps between which the steps go: linear t,
            square t^2, cosine cos((1 - t) pi / 2), arccos arccos(1 - t) 2 / pi.
        temperature: Divides the logits.
    """

    delta: float = attrs.field(default=0.0, validator=[v.ge(0), v.lt(1)])

    def plan(self, steps: int) -> list[tuple[Stage, ...]]:
        """One stage a step."""
        return [
            (
                Stage(
                    ratio=before,
                    progress=i / (steps - 1) if steps > 1 else 1.0,
                    law=self._law(before, after),
                ),
            )
            for i, (before, after) in enumerate(pairwise(ratios(steps, self.schedule, self.delta)))
        ]

    def _law(self, before: float, after: float) -> Law:
        """A leap with the rates at ``before``; all that is left when nothing comes after."""
        if after == 0:
            return lambda z: posterior(z[0], before, 0.0)
        return lambda z: first_jump(z[0].softmax(-1) / before, before - after)
