r"""What factorised steps must lose, whoever takes them: the multi-information that they cut through.

A step that decides the sites B at once, given the sites A that were decided before, draws them independently
with at best p(x_i | x_A). What is lost is the conditional total correlation (Watanabe, 1960)::

    sum over i in B of H(X_i | X_A)  -  H(X_B | X_A)

and over blocks B_1, B_2, ... that part the sites these terms add up, by the chain rule, to KL(p || q)::

    floor = sum over blocks j and i in B_j of H(X_i | X_{B_1}, ..., X_{B_{j-1}})  -  H(X)

In one step this is the multi-information sum_i H(X_i) - H(X), and no product distribution q has a smaller
KL(p || q). The mean over random orders bounds KL(p || q) of a random-order sampler from above, whose q is the
mixture over the orders, and is its exact mean loss where the order is known. All in nats.
"""

from collections.abc import Sequence
from itertools import combinations, pairwise

import torch
from jaxtyping import Float
from torch import Tensor

Entropies = dict[frozenset[int], float]


def entropies(p: Float[Tensor, " N"], length: int, codes: int) -> Entropies:
    """H(X_S) of every set S of sites.

    Args:
        p: A joint distribution.
        length: L.
        codes: V.
    """
    shaped, found = p.view(*[codes] * length), Entropies()
    for size in range(length + 1):
        for chosen in combinations(range(length), size):
            others = [i for i in range(length) if i not in chosen]
            marginal = shaped.sum(others) if others else shaped
            found[frozenset(chosen)] = float(torch.special.entr(marginal).sum())
    return found


def multi_information(h: Entropies) -> float:
    """sum_i H(X_i) - H(X): the floor of one step."""
    whole = max(h, key=len)
    return sum(h[frozenset([i])] for i in whole) - h[whole]


def random_floor(h: Entropies, counts: Sequence[int]) -> float:
    """The mean floor over all orders.

    Args:
        h: Entropies of all sets of sites.
        counts: How many sites each step decides.
    """
    whole, sums, ways = max(h, key=len), dict[int, float](), dict[int, int]()
    for s in h:
        for i in whole - s:
            sums[len(s)] = sums.get(len(s), 0.0) + h[s | {i}] - h[s]
            ways[len(s)] = ways.get(len(s), 0) + 1
    starts = [sum(counts[:j]) for j in range(len(counts))]
    return sum(n * sums[a] / ways[a] for n, a in zip(counts, starts, strict=True)) - h[whole]


def best_floor(h: Entropies, counts: Sequence[int]) -> float:
    """The floor of the best order, found among all: no factorised sampler of a fixed order does better.

    Args:
        h: Entropies of all sets of sites.
        counts: How many sites each step decides.
    """
    whole, best = max(h, key=len), {frozenset[int](): 0.0}
    ends = [0, *(sum(counts[: j + 1]) for j in range(len(counts)))]
    for before, after in pairwise(ends):
        reached = dict[frozenset[int], float]()
        for s, loss in best.items():
            each = {i: h[s | {i}] - h[s] for i in whole - s}
            for block in combinations(sorted(whole - s), after - before):
                now = s | frozenset(block)
                total = loss + sum(each[i] for i in block)
                reached[now] = min(total, reached.get(now, total))
        best = reached
    return best[whole] - h[whole]
