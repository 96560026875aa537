"""The weight w(t) of equation 3: what each masked token's gradient is multiplied with.

The paper's equation averages over masked tokens, its appendix normalises in the manner of DMD, and the
released code does neither: three choices, named.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dimo_core.device import transfer

WeightName = Literal["sum", "per_masked_token", "dmd"]
Weight = Callable[
    [Int[Tensor, " B"], Float[Tensor, "K V"], Float[Tensor, "K V"]],
    Float[Tensor, " K"],
]


def weight_sum(
    counts: Int[Tensor, " B"], log_p_theta: Float[Tensor, "K V"], log_p_phi: Float[Tensor, "K V"]
) -> Float[Tensor, " K"]:
    """w = 1: a sample with more masked tokens weighs more (the released code)."""
    return torch.ones_like(log_p_phi[:, 0])


def weight_per_masked_token(
    counts: Int[Tensor, " B"], log_p_theta: Float[Tensor, "K V"], log_p_phi: Float[Tensor, "K V"]
) -> Float[Tensor, " K"]:
    """w = 1 / L_M(t): every sample weighs the same (paper, equation 5)."""
    return transfer(counts.double().reciprocal().repeat_interleave(counts), log_p_phi.device).to(log_p_phi)


def weight_dmd(
    counts: Int[Tensor, " B"], log_p_theta: Float[Tensor, "K V"], log_p_phi: Float[Tensor, "K V"]
) -> Float[Tensor, " K"]:
    """w = 1 / mean abs(p_theta - p_phi) over a sample's masked rows and codes (appendix C; after DMD)."""
    distance = (log_p_theta.exp() - log_p_phi.exp()).abs().mean(1)
    sample = transfer(torch.arange(len(counts)).repeat_interleave(counts), distance.device)
    counts = transfer(counts, distance.device)
    mean = torch.zeros(len(counts), dtype=distance.dtype, device=distance.device)
    mean = mean.index_add(0, sample, distance) / counts
    return (1 / mean.clamp_min(1e-8))[sample]


WEIGHTS: Mapping[WeightName, Weight] = {
    "sum": weight_sum,
    "per_masked_token": weight_per_masked_token,
    "dmd": weight_dmd,
}
