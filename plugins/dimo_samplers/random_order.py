"""Random order: every order of the sites is as likely as any other."""

import attrs
from jaxtyping import Int
from torch import Tensor

from dimo_core.draws import Draws
from dimo_core.tokens import TokenSpace
from dimo_samplers.ordered import OrderedSampler


@attrs.frozen(kw_only=True)
class RandomOrderSampler(OrderedSampler):
    """Decides random sites (the teacher's rows of the Di[M]O paper); one pass a step.

    Attributes:
        schedule: Shape of the schedule.
        counts: Whether the schedule gives each step's share (share: MaskGIT-pytorch v1.0), or the tokens
            still masked after it, rounded to nearest (cumulative), down (amused) or up (halton).
        temperature: Divides the logits.
    """

    def order(self, space: TokenSpace, draws: Draws) -> Int[Tensor, "B L"]:
        """An order for each sample."""
        return draws.uniform("order", space.length).argsort(1)
