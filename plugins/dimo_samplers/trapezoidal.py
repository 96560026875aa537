"""The theta-trapezoidal method, of second order (Ren et al., NeurIPS 2025, arXiv 2502.00234)."""

from collections.abc import Sequence
from itertools import pairwise

import attrs
from attrs import validators as v
from jaxtyping import Float
from torch import Tensor

from dimo_samplers.kernel import Kernel, first_jump, posterior
from dimo_samplers.staged import Law, Stage, StagedSampler, ratios


@attrs.frozen(kw_only=True)
class ThetaTrapezoidalSampler(StagedSampler):
    """A leap over theta h, then one over the rest with rates extrapolated from both ends; two passes a step.

    From x at t to t - h, with the rates mu(x, t) = softmax(z) / t of masked sites::

        mu  = mu(x, t)                 x*: jumps at the rates mu for theta h
        mu* = mu(x*, t - theta h)      x': jumps from x* at (a_1 mu* - a_2 mu)_+ for (1 - theta) h

    a_1 = 1 / (2 theta (1 - theta)), a_2 = a_1 - 1. The second stage of the last step gives every site that is
    left a code from softmax(z*).

    Attributes:
        theta: Where within the step the second pass is made; the authors recommend 0.3 to 0.5.
        delta: Mask ratio at which the last step begins; at 0 it is like the others. The authors' code for
            MaskGIT stops at 0.01.
        power: Above 1 steps narrow towards the end, where the rates 1 / t change fastest; at 1, as in the
            paper, the error of complete tokens is h^2 log(1 / h).
        schedule: The mask ratio r(t) at the times t = (1 - i / steps)^power between which the steps go:
            linear t, square t^2, cosine cos((1 - t) pi / 2), arccos arccos(1 - t) 2 / pi.
        temperature: Divides the logits.
    """

    theta: float = attrs.field(default=0.5, validator=[v.gt(0), v.lt(1)])
    delta: float = attrs.field(default=0.0, validator=[v.ge(0), v.lt(1)])
    power: float = attrs.field(default=1.1, validator=v.ge(1))

    def plan(self, steps: int) -> list[tuple[Stage, ...]]:
        """Two stages a step, with the guidance of their own times."""
        plan = []
        grid = ratios(steps, self.schedule, self.delta, self.power)
        for i, (before, after) in enumerate(pairwise(grid)):
            middle = before - self.theta * (before - after)
            begins = [i / (steps - 1), min(1.0, (i + self.theta) / (steps - 1))] if steps > 1 else [1.0, 1.0]
            laws = (self._first(before, after), self._second(before, after))
            plan.append(
                tuple(
                    Stage(ratio=ratio, progress=progress, law=law)
                    for ratio, progress, law in zip((before, middle), begins, laws, strict=True)
                )
            )
        return plan

    def _first(self, before: float, after: float) -> Law:
        """A leap over theta h with the rates mu."""
        return lambda z: first_jump(z[0].softmax(-1) / before, self.theta * (before - after))

    def _second(self, before: float, after: float) -> Law:
        """A leap over (1 - theta) h with the extrapolated rates; their sum is positive."""
        width, theta = before - after, self.theta
        middle = before - theta * width
        if after == 0:
            return lambda z: posterior(z[1], middle, 0.0)
        a_1 = 1 / (2 * theta * (1 - theta))

        def law(z: Sequence[Float[Tensor, "K V"]]) -> Kernel:
            mu, mu_star = z[0].softmax(-1) / before, z[1].softmax(-1) / middle
            return first_jump((a_1 * mu_star - (a_1 - 1) * mu).relu(), (1 - theta) * width)

        return law
