"""The weight w(t) of equation 3: what each masked token's gradient is multiplied with.

The paper's equation averages over masked tokens, its appendix normalises in the manner of DMD, and the
released code does neither: three choices, named.
"""

from collections.abc import Callable, Mapping
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

WeightName = Literal["sum", "per_masked_token", "dmd"]
Weight = Callable[
    [Int[Tensor, " B"], Callable[[], Float[Tensor, " B"]]],
    Float[Tensor, " B"],
]
"""w of each sample, from its masked tokens and, where it is asked for, the distance of p_theta and p_phi."""


def weight_sum(counts: Int[Tensor, " B"], distance: Callable[[], Float[Tensor, " B"]]) -> Float[Tensor, " B"]:
    """w = 1: a sample with more masked tokens weighs more (the released code)."""
    return counts.new_ones(len(counts)).double()


def weight_per_masked_token(
    counts: Int[Tensor, " B"], distance: Callable[[], Float[Tensor, " B"]]
) -> Float[Tensor, " B"]:
    """w = 1 / L_M(t): every sample weighs the same (paper, equation 5)."""
    return counts.double().reciprocal()


def weight_dmd(counts: Int[Tensor, " B"], distance: Callable[[], Float[Tensor, " B"]]) -> Float[Tensor, " B"]:
    """w = 1 / mean abs(p_theta - p_phi) over a sample's masked rows and codes (appendix C; after DMD).

    Args:
        counts: Masked tokens of each sample.
        distance: The mean of each sample; costs a pass over all logits.
    """
    return distance().clamp_min(1e-8).reciprocal()


WEIGHTS: Mapping[WeightName, Weight] = {
    "sum": weight_sum,
    "per_masked_token": weight_per_masked_token,
    "dmd": weight_dmd,
}
