"""What is measured of text, as pure functions: tensors in, numbers out.

Conventions of published numbers differ, and a perplexity without the entropy says nothing: few words repeated
have a low one. All logarithms are natural.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def entropy(tokens: Int[Tensor, "N L"], counted: Bool[Tensor, "N L"] | None = None) -> Float[Tensor, " N"]:
    """-sum f ln f over the distinct tokens of each sample, f being their shares in it, in nats (MDLM, Duo).

    Args:
        tokens: Samples.
        counted: Which of the tokens count; None for all. A sample in which none counts has 0.
    """
    rows = []
    for i, row in enumerate(tokens):
        count = (row if counted is None else row[counted[i]]).unique(return_counts=True)[1].double()
        rows.append(_entropy(count / count.sum()))
    return torch.stack(rows)


def perplexity_until_end(
    nll: Float[Tensor, "N M"], tokens: Int[Tensor, "N L"], end: int
) -> tuple[float, int]:
    """exp of the mean of what counts, pooled over the samples; and how many tokens count (MDLM, Duo).

    A token counts that is not the end of a document, or is the first one of its sample. One at position 0,
    which has no nll, is that first one.

    Args:
        nll: Of the tokens 1 .. L-1, M = L - 1, under a reader.
        tokens: The reader's tokens.
        end: Its token that ends a document.
    """
    ends = tokens == end
    counts = (~ends | (ends.cumsum(1) == 1))[:, 1:]
    count = int(counts.sum())
    return math.exp(float(nll.double()[counts].sum()) / count), count


def perplexity_of_rows(nll: Float[Tensor, "N M"]) -> float:
    """exp of the mean over samples of the mean over all their tokens but the first (SDTT).

    Args:
        nll: Of the tokens 1 .. L-1 under a reader.
    """
    return math.exp(float(nll.double().mean(1).mean()))


def ngram_divergence(
    a: Int[Tensor, "N L"],
    b: Int[Tensor, "M K"],
    n: int,
    codes: int,
    counted: tuple[Bool[Tensor, "N L"] | None, Bool[Tensor, "M K"] | None] = (None, None),
) -> float:
    """Jensen-Shannon divergence of the n-grams in two sets of samples, in nats: from 0 to ln 2.

    Two finite sets of one distribution have a positive one: compare with the row of real text.

    Args:
        a: Samples.
        b: Others.
        n: Tokens of an n-gram.
        codes: Vocabulary size V; V^n must be below 2^63.
        counted: Which tokens of each count; None for all. Of an n-gram all must.

    Raises:
        ValueError: when it is not, or samples are shorter than n.
    """
    place, grams = codes ** torch.arange(n), list[Tensor]()
    if codes**n < 2**63 and min(a.shape[1], b.shape[1]) >= n:
        for x, own in zip((a, b), counted, strict=True):
            every = (x.cpu().unfold(1, n, 1) * place).sum(-1)
            grams.append(every.flatten() if own is None else every[own.cpu().unfold(1, n, 1).all(-1)])
    if not grams or not all(map(len, grams)):
        raise ValueError(
            f"n-grams of {n} tokens, of {codes:,} codes in samples of {a.shape[1]} and {b.shape[1]}"
        )
    _, number = torch.cat(grams).unique(return_inverse=True)
    size = int(number.max()) + 1
    p, q = (part.bincount(minlength=size).double() for part in number.split([len(g) for g in grams]))
    p, q = p / p.sum(), q / q.sum()
    return float(_entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2)


def _entropy(p: Float[Tensor, " K"]) -> Float[Tensor, ""]:
    return -torch.xlogy(p, p).sum()


def accuracy_under_parallelism(points: Sequence[tuple[float, float]], best: float) -> float:
    """AUP of d3LLM: rho_1 y_1 + sum_{i>1} (rho_i - rho_{i-1}) (y_i W(y_i) + y_{i-1} W(y_{i-1})) / 2.

    W(y) = min(exp(-3 (1 - y / best)), 1), and the first term has none. A point more than 5 below the first
    one is left out, which can make the area larger; it also hangs on the other methods, through ``best``.

    Args:
        points: Tokens per forward pass rho and accuracy y in per cent, in any order.
        best: The best accuracy of any method on the task, in per cent.

    Raises:
        ValueError: without points, and when the last one would be left out.
    """
    ordered = sorted(points, key=lambda point: point[0])
    if not ordered or ordered[-1][1] < ordered[0][1] - 5:
        raise ValueError(
            "accuracy at the most tokens a pass must be at most 5 points below that at the fewest"
        )
    kept = [(rho, y) for rho, y in ordered if y >= ordered[0][1] - 5]
    weighted = [(rho, y * min(math.exp(-3 * (1 - y / best)), 1.0)) for rho, y in kept]
    steps = pairwise(weighted)
    return kept[0][0] * kept[0][1] + sum((b - a) * (y + x) / 2 for (a, x), (b, y) in steps)


def at_entropy(curve: Sequence[tuple[float, float]], entropy: float) -> float | None:
    """The perplexity of a frontier at an entropy: its logarithm linear between neighbouring points.

    Args:
        curve: Pairs of entropy and perplexity, such as those of one sampler at several temperatures.
        entropy: Where it is asked for.

    Returns:
        None outside of the curve's entropies.
    """
    points = sorted(curve)
    for (low, p), (high, q) in pairwise(points):
        if low <= entropy <= high:
            share = (entropy - low) / (high - low) if high > low else 0.0
            return math.exp((1 - share) * math.log(p) + share * math.log(q))
    return None
