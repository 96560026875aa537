"""What is measured of text, as pure functions: tensors in, numbers out.

Conventions of published numbers differ, and a perplexity without the entropy says nothing: few words repeated
have a low one. All logarithms are natural.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor


def entropy(tokens: Int[Tensor, "N L"]) -> Float[Tensor, " N"]:
    """-sum f ln f over the distinct tokens of each sample, f being their shares in it, in nats (MDLM, Duo).

    Args:
        tokens: Samples.
    """
    length = tokens.shape[1]
    same = (tokens[:, :, None] == tokens[:, None]).sum(2).double() if length <= 256 else _counts(tokens)
    return -(same / length).log().mean(1)


def _counts(tokens: Int[Tensor, "N L"]) -> Float[Tensor, "N L"]:
    """How often each token occurs in its own sample."""
    rows = []
    for row in tokens:
        _, place, count = row.unique(return_inverse=True, return_counts=True)
        rows.append(count[place])
    return torch.stack(rows).double()


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


def ngram_divergence(a: Int[Tensor, "N L"], b: Int[Tensor, "M K"], n: int, codes: int) -> float:
    """Jensen-Shannon divergence of the n-grams in two sets of samples, in nats: from 0 to ln 2.

    Two finite sets of one distribution have a positive one: compare with the row of real text.

    Args:
        a: Samples.
        b: Others.
        n: Tokens of an n-gram.
        codes: Vocabulary size V; V^n must be below 2^63.

    Raises:
        ValueError: when it is not, or samples are shorter than n.
    """
    if codes**n >= 2**63 or min(a.shape[1], b.shape[1]) < n:
        raise ValueError(
            f"n-grams of {n} tokens, of {codes:,} codes in samples of {a.shape[1]} and {b.shape[1]}"
        )
    place = codes ** torch.arange(n)
    grams = [(x.cpu().unfold(1, n, 1) * place).sum(-1).flatten() for x in (a, b)]
    _, number = torch.cat(grams).unique(return_inverse=True)
    size = int(number.max()) + 1
    p, q = (part.bincount(minlength=size).double() for part in number.split([len(g) for g in grams]))
    p, q = p / p.sum(), q / q.sum()
    return float(_entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2)


def _entropy(p: Float[Tensor, " K"]) -> Float[Tensor, ""]:
    return -torch.xlogy(p, p).sum()


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
