"""The weight w(t) of equation 3: what each masked token's gradient is multiplied with.

The paper's equation averages over masked tokens, its appendix normalises in the manner of DMD, the released
code does neither, and IDLM and D-MMD weigh as the evidence bound does: four choices, named.
"""

from collections.abc import Callable, Mapping
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from dimo_core.method.process import Remask

WeightName = Literal["sum", "per_masked_token", "elbo", "dmd"]
Weight = Callable[
    [Remask, Callable[[], Float[Tensor, " B"]]],
    Float[Tensor, " B"],
]
"""w of each sample, from what is masked and, where it is asked for, the distance of p_theta and p_phi."""


def weight_sum(remask: Remask, distance: Callable[[], Float[Tensor, " B"]]) -> Float[Tensor, " B"]:
    """w = 1: a sample with more masked tokens weighs more (the released code)."""
    return remask.counts.new_ones(len(remask.counts)).double()


def weight_per_masked_token(
    remask: Remask, distance: Callable[[], Float[Tensor, " B"]]
) -> Float[Tensor, " B"]:
    """w = 1 / L_M(t): every sample weighs the same (paper, equation 5)."""
    return remask.counts.double().reciprocal()


def weight_elbo(remask: Remask, distance: Callable[[], Float[Tensor, " B"]]) -> Float[Tensor, " B"]:
    """w = 1 / r(t), as in the evidence bound of a linear schedule (IDLM, D-MMD)."""
    return remask.ratio.double().reciprocal()


def weight_dmd(remask: Remask, distance: Callable[[], Float[Tensor, " B"]]) -> Float[Tensor, " B"]:
    """w = 1 / mean abs(p_theta - p_phi) over a sample's masked rows and codes (appendix C; after DMD).

    Args:
        remask: What is masked.
        distance: The mean of each sample; costs a pass over all logits.
    """
    return distance().clamp_min(1e-8).reciprocal()


WEIGHTS: Mapping[WeightName, Weight] = {
    "sum": weight_sum,
    "per_masked_token": weight_per_masked_token,
    "elbo": weight_elbo,
    "dmd": weight_dmd,
}
