"""The laws of samplers and generators, by enumeration: which sequence comes out with which probability.

``f`` is a law over partly masked sequences, counted as in ``partial``; a pass decides some of what is masked.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dimo_gym.partial import places, states, whole

Share = Callable[[int, int], float]
"""From the numbers of masked sites and of decided ones to the probability of a set of so many."""

Conditionals = Float[Tensor, "M L V"]

CHUNK = 2**22
"""Numbers that are alive at once."""


def exactly(count: int) -> Share:
    """A pass that decides so many sites, each set of them as likely as the others."""
    return lambda masked, decided: (decided == count) / math.comb(masked, count) if count <= masked else 0.0


def each_with(probability: float) -> Share:
    """A pass that decides each masked site with this probability (ancestral sampling)."""
    return lambda masked, decided: probability**decided * (1 - probability) ** (masked - decided)


def advanced(
    f: Float[Tensor, " M"], p: Conditionals, share: Share, length: int, codes: int
) -> Float[Tensor, " M"]:
    """The law after a pass.

    Args:
        f: The law before it.
        p: The probabilities that the pass gives to codes, at every partly masked sequence.
        share: Which sites are decided.
        length: L.
        codes: V.
    """
    x = states(length, codes)
    pattern = places((x == codes).long(), 2)
    order = pattern.argsort(stable=True)
    after = torch.zeros_like(f)
    for at in order.split(pattern.bincount(minlength=2**length).tolist()):
        at = at[f[at] > 0]
        if len(at):
            spread_into(after, at, f[at], p[at], share, x[at])
    return after


def spread_into(
    after: Float[Tensor, " M"],
    at: Int[Tensor, " n"],
    f: Float[Tensor, " n"],
    p: Float[Tensor, "n L V"],
    share: Share,
    x: Int[Tensor, "n L"],
) -> None:
    """Add to a law what becomes of states with the same masked sites in one pass.

    Args:
        after: The law, over all partly masked sequences.
        at: Where the states are counted, masked sites as digits V.
        f: Their probabilities.
        p: Probabilities of the codes.
        share: Which of the masked sites are decided.
        x: The states.
    """
    length, codes = p.shape[1:]
    free = (x[0] == codes).nonzero()[:, 0].tolist()
    y = states(len(free), codes)
    decided = (y < codes).sum(1)
    shares = torch.tensor([share(len(free), n) for n in range(len(free) + 1)], dtype=f.dtype)[decided]
    kept = shares > 0
    y, shares = y[kept], shares[kept]
    digits = torch.tensor([(codes + 1) ** (length - 1 - i) for i in free], dtype=torch.long)
    moved = ((y - codes) * digits).sum(1)
    for rows in torch.arange(len(at)).split(max(1, CHUNK // len(y))):
        q = f[rows, None] * shares
        for k, i in enumerate(free):
            choices = torch.cat([p[rows, i], torch.ones(len(rows), 1, dtype=p.dtype)], 1)
            q = q * choices[:, y[:, k]]
        after.index_add_(0, (at[rows, None] + moved).flatten(), q.flatten())


def finished(f: Float[Tensor, " M"], length: int, codes: int) -> Float[Tensor, " N"]:
    """The law of whole sequences, when nothing is masked any more.

    Raises:
        ValueError: when something is.
    """
    q = f[whole(length, codes)]
    if abs(float(q.sum()) - 1) > 1e-6:
        raise ValueError(f"{1 - float(q.sum()):.3g} of the law is not finished")
    return q


def sampled(p: Conditionals, shares: Sequence[Share], length: int, codes: int) -> Float[Tensor, " N"]:
    """The law of a sampler that starts from masks only.

    Args:
        p: What the network says at every partly masked sequence.
        shares: Of each pass.
        length: L.
        codes: V.
    """
    f = torch.zeros(len(p), dtype=p.dtype)
    f[-1] = 1
    for share in shares:
        f = advanced(f, p, share, length, codes)
    return finished(f, length, codes)


def initial(length: int, codes: int, masks: int) -> Int[Tensor, "n L"]:
    """All x_init with so many masks, each as likely as the others."""
    x = states(length, codes)
    return x[(x == codes).sum(1) == masks]


def begun(p: Float[Tensor, "n L V"], share: Share) -> Float[Tensor, " M"]:
    """The law after a first pass from x_init, all of whose sites it decides anew.

    Args:
        p: The probabilities that the generator gives to codes at each x_init, which are equally likely.
        share: Which sites are decided.
    """
    count, length, codes = p.shape
    f = torch.full((count,), 1 / count, dtype=p.dtype)
    after = torch.zeros((codes + 1) ** length, dtype=p.dtype)
    at = torch.full((count,), len(after) - 1)
    spread_into(after, at, f, p, share, torch.full((count, length), codes))
    return after


def generated(
    first: Float[Tensor, "n L V"], p: Conditionals | None, shares: Sequence[Share]
) -> Float[Tensor, " N"]:
    """The law of a generator of one or a few passes, averaged over x_init.

    Args:
        first: Probabilities at each x_init, which are equally likely.
        p: Probabilities at every partly masked sequence; None for one pass.
        shares: Of each pass.
    """
    _, length, codes = first.shape
    f = begun(first, shares[0])
    for share in shares[1:]:
        assert p is not None, "further passes need what the network says at partly masked sequences"
        f = advanced(f, p, share, length, codes)
    return finished(f, length, codes)


def product_mean(p: Float[Tensor, "n L V"]) -> Float[Tensor, " N"]:
    """The mean of the laws that draw the sites independently with these probabilities."""
    half = p.shape[1] // 2
    parts = []
    for sites in (p[:, :half], p[:, half:]):
        rows = p.new_ones(len(p), 1)
        for site in sites.unbind(1):
            rows = (rows[:, :, None] * site[:, None, :]).flatten(1)
        parts.append(rows)
    return (parts[0].T @ parts[1]).flatten() / len(p)


def blocks(laws: Iterator[Float[Tensor, " N"]]) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Mean of independent estimates of a law, and the standard error of each probability."""
    stacked = torch.stack(list(laws))
    return stacked.mean(0), stacked.std(0) / math.sqrt(len(stacked))
