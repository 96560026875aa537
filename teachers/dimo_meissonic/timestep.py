"""What the transformer is told as its timestep: three conventions are in use for one network.

====================  =======================================================================================
``zero``              always 0. The released Di[M]O training casts the mask ratio to an integer first, so its
                      four networks saw nothing else, and its generators must be sampled so
``step_index``        the index of the sampling step, N-1 at first and 0 at last (Meissonic's sampler)
``mask_ratio``        1000 times the mask ratio (Meissonic's training code)
====================  =======================================================================================

The network multiplies each by 1000 once more before it takes sines of it.
"""

import math
from typing import Literal

import attrs
import torch
from attrs import validators as v
from jaxtyping import Float
from torch import Tensor

Convention = Literal["zero", "step_index", "mask_ratio"]


@attrs.frozen(kw_only=True)
class Clock:
    """Mask ratios to timesteps.

    Attributes:
        convention: Which of the three.
        steps: Sampling steps N, for ``step_index`` where nobody counts steps.
        index: The index of the step, where a sampler counts them; else it is found from the mask ratio.
    """

    convention: Convention = "zero"
    steps: int = attrs.field(default=64, validator=v.ge(1))
    index: int | None = None

    def timestep(self, mask_ratio: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The timestep of each sample, in fp32.

        Without an index, the step index is found back from the ratio: before step i of N the cosine schedule
        has cos(pi i / 2N) of the tokens masked, and the sampler says N - 1 - i. Exact for 4096 tokens and up
        to 64 steps.
        """
        ratio = mask_ratio.float()
        match self.convention:
            case "zero":
                return ratio * 0
            case "mask_ratio":
                return ratio * 1000
            case "step_index" if self.index is not None:
                return torch.full_like(ratio, self.index)
            case "step_index":
                index = self.steps * (1 - ratio.acos() * (2 / math.pi)) - 1
                return index.round().clamp(0, self.steps - 1)
