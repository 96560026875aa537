"""The joint distribution of the toy: a few words, and a little of everything."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

LENGTH, CODES = 4, 4
MASK = CODES

WORDS = (
    ((0, 0, 0, 0), (1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, 3)),
    ((0, 1, 2, 3), (1, 2, 3, 0), (2, 3, 0, 1), (3, 0, 1, 2)),
)
"""The words of heads and of tails. Each site alone is uninformative; any one site decides the whole word."""

SHARES = (0.4, 0.3, 0.2, 0.1)
"""How frequent the words of a condition are."""


def joint(noise: float) -> Float[Tensor, "2 4 4 4 4"]:
    """p(x | c): (1 - noise) of the words, and ``noise`` spread evenly over all sequences."""
    p = torch.full((2, *[CODES] * LENGTH), noise / CODES**LENGTH, dtype=torch.float64)
    for c, words in enumerate(WORDS):
        for word, share in zip(words, SHARES, strict=True):
            p[c, *word] += (1 - noise) * share
    return p


def log_conditionals(p: Float[Tensor, "2 4 4 4 4"]) -> Float[Tensor, "2 625 4 4"]:
    """log p(x_i = v | the other visible tokens, c) for every partly masked sequence.

    Sequences are counted in base 5, the digit 4 being the mask. The token at site i itself is not looked
    at, so the entries are finite everywhere; where i is masked they are the exact conditionals.
    """
    # An axis of 5 in place of each axis of 4: the last entry sums the axis, as a masked site does.
    for axis in range(1, LENGTH + 1):
        p = torch.cat([p, p.sum(axis, keepdim=True)], axis)
    sites = []
    for i in range(LENGTH):
        codes = p.movedim(i + 1, -1)[..., :CODES]
        normalised = (codes / codes.sum(-1, keepdim=True)).unsqueeze(i + 1)
        sites.append(normalised.expand(*p.shape, CODES).flatten(1, -2))
    return torch.stack(sites, 2).log().float()


def one_step(p: Float[Tensor, "2 4 4 4 4"]) -> Float[Tensor, "2 4 4 4 4"]:
    """What sampling all sites at once from their marginals gives: their product."""
    product = torch.ones_like(p)
    for i in range(1, LENGTH + 1):
        others = [axis for axis in range(1, LENGTH + 1) if axis != i]
        product = product * p.sum(others, keepdim=True)
    return product


def total_variation(p: Float[Tensor, "... 4 4 4 4"], q: Float[Tensor, "... 4 4 4 4"]) -> Float[Tensor, "..."]:
    """Half the sum of |p - q| over all sequences."""
    return (p - q).abs().flatten(-LENGTH).sum(-1) / 2


def histogram(x: Int[Tensor, "N 4"]) -> Float[Tensor, "4 4 4 4"]:
    """The share of each sequence among samples."""
    places = torch.tensor([CODES**i for i in reversed(range(LENGTH))])
    counts = (x * places).sum(1).bincount(minlength=CODES**LENGTH)
    return (counts.double() / len(x)).view(*[CODES] * LENGTH)
