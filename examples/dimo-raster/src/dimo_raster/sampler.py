"""The sampler ``raster``."""

from itertools import pairwise

import attrs
import torch
from attrs import validators as v
from dimo_core.backbone import Backbone
from dimo_core.draws import categorical
from dimo_core.guidance import Guidance, guided, passes
from dimo_core.sampler import Sampled, ScheduledSampler, Unknown
from dimo_core.teacher import Teacher


@attrs.frozen(kw_only=True)
class Raster(ScheduledSampler):
    """Decides the sites from the first to the last, equally many in each step.

    Attributes:
        temperature: Divides the logits.
    """

    temperature: float = attrs.field(default=1.0, validator=v.gt(0))

    def from_masks(
        self,
        teacher: Teacher,
        network: Backbone,
        start: Unknown,
        *,
        steps: int,
        guidance: Guidance,
        keep_trajectory: bool,
    ) -> Sampled:
        """Draw the samples of ``start``, which all have as many sites to decide."""
        x, length = start.x, teacher.tokens.length
        rows = start.rows.view(len(x), start.sites)
        edges = [start.sites * i // steps for i in range(steps + 1)]
        parts = [(first, last) for first, last in pairwise(edges) if first < last]
        used, trajectory = 0, []
        for i, (first, last) in enumerate(parts):
            ratio = torch.full((len(x),), 1 - first / start.sites)  # on the CPU, as scales are
            scale = guidance.at(ratio, i / max(1, len(parts) - 1))
            told = teacher.at_step(network, i, len(parts))
            logits = guided(teacher, told, x, start.c, mask_ratio=ratio.to(x.device), scale=scale)
            now = rows[:, first:last].flatten()
            u = start.draws.uniform(f"raster/{i}", length).flatten()[now]
            x = x.flatten().scatter(0, now, categorical(logits(now) / self.temperature, u)).view_as(x)
            used += passes(scale)
            trajectory += [x] if keep_trajectory else []
        return Sampled(tokens=x, passes=used, trajectory=tuple(trajectory))
