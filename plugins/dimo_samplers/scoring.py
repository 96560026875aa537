"""Tokens and their scores at undecided sites, and the best of them: what samplers share."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dimo_core.backbone import Rows
from dimo_core.method.logits import chunks

Judge = Callable[[Float[Tensor, "K V"], Rows], tuple[Int[Tensor, " K"], Float[Tensor, " K"]]]
"""From the logits of some sites, and which they are, to a token for each and how sure it is."""


def scored(
    logits: Callable[[Rows], Float[Tensor, "K V"]],
    undecided: Bool[Tensor, "B L"],
    left: int,
    columns: int,
    judge: Judge,
) -> tuple[Int[Tensor, "B L"], Float[Tensor, "B L"]]:
    """A token and a score for each of a sample's ``left`` undecided sites; others score -inf, below all.

    The head runs for some sites at a time, so that logits of all are never in memory together. They are found
    by sorting: a search would make the host wait for how many there are.

    Args:
        logits: Those of one pass, at flat rows.
        undecided: The sites.
        left: How many there are in each sample.
        columns: Logits of a site.
        judge: Chooses and scores.
    """
    rows = undecided.flatten().int().argsort(stable=True, descending=True)[: len(undecided) * left]
    found = [judge(logits(some), some) for some in (rows[k] for k in chunks(len(rows), len(rows), columns))]
    chosen, sure = (torch.cat(parts) for parts in zip(*found, strict=True))
    tokens = torch.zeros_like(undecided, dtype=torch.long).flatten()
    score = torch.full(tokens.shape, -torch.inf, dtype=sure.dtype, device=tokens.device)
    tokens[rows], score[rows] = chosen, sure.clamp_min(torch.finfo(sure.dtype).min)
    return tokens.view_as(undecided), score.view_as(undecided)


def best(score: Float[Tensor, "B L"], count: int) -> Bool[Tensor, "B L"]:
    """The ``count`` sites of each sample with the largest score; of equal ones those that torch takes."""
    return torch.zeros_like(score, dtype=torch.bool).scatter(1, score.topk(count, 1).indices, True)


def blocks(sites: Bool[Tensor, "B L"], size: int) -> Int[Tensor, "B L"]:
    """The number of the block of ``size`` sites in which each of these sites lies, counted in their order."""
    return (sites.long().cumsum(1) - 1).div(size, rounding_mode="floor")
