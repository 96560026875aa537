"""Ancestral sampling: the exact posterior of the masked process (MDLM, arXiv 2406.07524)."""

from itertools import pairwise

import attrs

from dimo_samplers.kernel import posterior
from dimo_samplers.staged import Law, Stage, StagedSampler, ratios


@attrs.frozen(kw_only=True)
class AncestralSampler(StagedSampler):
    """Each step unmasks each masked site with probability (r_t - r_s) / r_t; one pass a step.

    Attributes:
        schedule: The mask ratio r(t) at the times t = 1 - i / steps between which the steps go: linear t,
            square t^2, cosine cos((1 - t) pi / 2), arccos arccos(1 - t) 2 / pi.
        temperature: Divides the logits.
    """

    def plan(self, steps: int) -> list[tuple[Stage, ...]]:
        """One stage a step; in the last one every site that is left gets a code."""
        return [
            (
                Stage(
                    ratio=before,
                    progress=i / (steps - 1) if steps > 1 else 1.0,
                    law=_law(before, after),
                ),
            )
            for i, (before, after) in enumerate(pairwise(ratios(steps, self.schedule)))
        ]


def _law(before: float, after: float) -> Law:
    return lambda z: posterior(z[0], before, after)
