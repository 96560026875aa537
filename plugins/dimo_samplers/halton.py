"""Halton order: sites far from one another first (Besnier et al., ICLR 2025, arXiv 2503.17076)."""

from typing import get_args

import attrs
import torch
from attrs import validators as v
from jaxtyping import Int
from torch import Tensor

from dimo_core.device import transfer
from dimo_core.draws import Draws
from dimo_core.method.orders import halton_sites
from dimo_core.tokens import TokenSpace
from dimo_samplers.ordered import Counts, OrderedSampler


@attrs.frozen(kw_only=True)
class HaltonSampler(OrderedSampler):
    """Decides sites in the order of the Halton sequence over the grid; one pass a step.

    Attributes:
        roll: Start each sample at a random place of the sequence, and go round.
        schedule: Shape of the schedule.
        counts: Whether the schedule gives each step's share (share: MaskGIT-pytorch v1.0), or the tokens
            still masked after it, rounded to nearest (cumulative), down (amused) or up (halton).
        temperature: Divides the logits.
    """

    roll: bool = False
    counts: Counts = attrs.field(default="halton", validator=v.in_(get_args(Counts)))

    def order(self, space: TokenSpace, draws: Draws) -> Int[Tensor, "B L"]:
        """The same order for every sample, but for where it starts."""
        order = transfer(halton_sites(space), draws.device)
        start = torch.zeros(draws.count, dtype=torch.long, device=draws.device)
        if self.roll:
            start = draws.integers("roll", space.length)
        place = torch.arange(space.length, device=draws.device) + start[:, None]
        rolled: Tensor = order[place % space.length]
        return rolled
