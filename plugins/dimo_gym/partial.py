"""Partly masked sequences, all (V + 1)^L of them, and exact conditionals given what is visible.

They are counted in base V + 1, the digit V being the mask; the first site is the highest digit.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dimo_gym.joints import Joint, sequences


def states(length: int, codes: int) -> Int[Tensor, "M L"]:
    """All partly masked sequences; the mask is V."""
    return sequences(length, codes + 1)


def places(x: Int[Tensor, "B L"], base: int) -> Int[Tensor, " B"]:
    """Where sequences are counted; ``base`` is V for whole ones and V + 1 for partly masked ones."""
    digits = torch.tensor([base**i for i in reversed(range(x.shape[1]))], device=x.device)
    return (x * digits).sum(1)


def whole(length: int, codes: int) -> Int[Tensor, " N"]:
    """Where the sequences without a mask are counted among the partly masked ones."""
    return places(sequences(length, codes), codes + 1)


def marginals(p: Joint, length: int, codes: int) -> Float[Tensor, "C M"]:
    """The probability of what is visible of each partly masked sequence: masked sites are summed over."""
    shaped = p.view(len(p), *[codes] * length)
    for axis in range(1, length + 1):
        shaped = torch.cat([shaped, shaped.sum(axis, keepdim=True)], axis)
    return shaped.flatten(1)


def conditionals(p: Joint, length: int, codes: int) -> Float[Tensor, "C M L V"]:
    """p(x_i = v | what is visible besides site i) for each partly masked sequence.

    The token at site i itself is not looked at, so where i is masked this is what a masked diffusion model
    learns, and elsewhere it is defined, too. What is visible must have a positive probability.
    """
    shaped = marginals(p, length, codes).view(len(p), *[codes + 1] * length)
    sites = []
    for i in range(length):
        of_site = shaped.movedim(i + 1, -1)[..., :codes]
        share = (of_site / of_site.sum(-1, keepdim=True)).unsqueeze(i + 1)
        sites.append(share.expand(*shaped.shape, codes).flatten(1, -2))
    return torch.stack(sites, 2)
