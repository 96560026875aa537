"""The masked diffusion process: x_init, q_{t|0}, and the mask schedule r(t).

t = 0 is clean, t = 1 is all masked, and r(t) increases.
"""

import math
from typing import Literal

import attrs
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dimo_core.backbone import Rows
from dimo_core.device import transfer
from dimo_core.draws import Draws, block_rows
from dimo_core.tokens import Given, Tokens, TokenSpace

Schedule = Literal["linear", "square", "cosine", "arccos"]
Masking = Literal["exact", "bernoulli"]


def mask_ratio(t: Float[Tensor, " *B"], schedule: Schedule) -> Float[Tensor, " *B"]:
    """r(t), the share of masked tokens at time t; r(0) = 0 and r(1) = 1.

    The authors draw u ~ U[0, 1] and write arccos(u) 2/pi and cos(u pi/2), which is u = 1 - t.
    """
    match schedule:
        case "linear":
            return t
        case "square":
            return t.square()
        case "cosine":
            return ((1 - t) * (math.pi / 2)).cos()
        case "arccos":
            return (1 - t).acos() * (2 / math.pi)


def masked_count(ratio: Float[Tensor, " B"], length: int | Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    """max(1, round(r L)), half to even: how many tokens exact-count masking hides; none where L is 0."""
    return (ratio * length).round().long().clamp_min(1).minimum(torch.as_tensor(length))


def draw_mask(
    ratio: Float[Tensor, " B"],
    length: int,
    draws: Draws,
    masking: Masking = "exact",
    valid: Bool[Tensor, "B {length}"] | None = None,
) -> Bool[Tensor, "B {length}"]:
    """Which sites q_{t|0} hides: ``masked_count`` of them, or each on its own with probability r(t).

    It does not depend on the tokens, so it is drawn before any network runs. A Bernoulli draw that hides
    nothing hides one site instead: a sample without a masked site would teach nothing.

    Args:
        ratio: r(t).
        length: L.
        draws: Random numbers.
        masking: How many.
        valid: The sites that may be hidden; None for all.
    """
    if masking == "exact":
        sizes = masked_count(ratio, length if valid is None else valid.sum(1))
        return draws.subset("masked", length, sizes, valid)
    u = draws.uniform("masked", length)
    u = u if valid is None else u.masked_fill(~valid, torch.inf)
    masked = u < ratio[:, None]
    lowest = torch.zeros_like(masked).scatter(1, u.argmin(1, keepdim=True), True) & u.isfinite()
    return torch.where(masked.any(1, keepdim=True), masked, lowest)


def apply_mask(x: Tokens, masked: Bool[Tensor, "B L"], space: TokenSpace) -> Tokens:
    """x_tilde_t ~ q_{t|0}(. | x): the mask id where ``masked``, the token elsewhere."""
    return x.masked_fill(masked, space.mask_id)


def initial_tokens(space: TokenSpace, r_init: float, draws: Draws, given: Given | None = None) -> Tokens:
    """x_init: exactly round(r_init L) masks at random sites, random codes elsewhere (paper, section 3.3).

    Args:
        space: The token space; random codes are such as it allows.
        r_init: Share of masks.
        draws: Random numbers.
        given: What is given; L then counts the other sites.
    """
    if space.restricted:
        codes = space.codes_of(draws.uniform("x_init.codes", space.length))
    else:
        codes = draws.integers("x_init.codes", space.codes, space.length)
    sizes = torch.full((draws.count,), round(r_init * space.length), device=draws.device)
    if given is not None:
        codes, sizes = given.put(codes), (r_init * given.valid.sum(1).double()).round().long()
    masked = draws.subset("x_init.masked", space.length, sizes, given.valid if given else None)
    return apply_mask(codes, masked, space)


def perturb(e: Float[Tensor, "B L E"], sigma: float, eps: Float[Tensor, "B L E"]) -> Float[Tensor, "B L E"]:
    """Noise on token embeddings, sqrt(1 - sigma^2) e + sigma eps (paper, section 3.3)."""
    return math.sqrt(1 - sigma**2) * e + sigma * eps.to(e)


@attrs.frozen(kw_only=True, eq=False)
class Remask:
    """Where q_{t|0} hides tokens; ratio and counts stay on the CPU.

    Attributes:
        ratio: r(t) of each sample.
        counts: Masked tokens of each sample.
        masked: The masked sites, on the training device.
        rows: The same sites as flat indices into B * L, sample by sample.
        kept: The other sites, likewise.
        total: Masked tokens of the global batch, of which this may be a micro-batch.
    """

    ratio: Float[Tensor, " B"]
    counts: Int[Tensor, " B"]
    masked: Bool[Tensor, "B L"]
    rows: Rows
    kept: Rows
    total: int


def draw_ratio(schedule: Schedule, draws: Draws, bounds: tuple[float, float]) -> Float[Tensor, " B"]:
    """r(t) of t ~ U[0, 1], clamped to ``bounds``."""
    return mask_ratio(draws.uniform("t"), schedule).clamp(*bounds)


def draw_remask(
    length: int,
    schedule: Schedule,
    masking: Masking,
    draws: Draws,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    valid: Bool[Tensor, "N {length}"] | None = None,
) -> Remask:
    """t ~ U[0, 1], r(t) clamped to ``bounds``, and the sites that q_{t|0} will hide.

    Args:
        length: L.
        schedule: r(t).
        masking: How many sites are hidden.
        draws: Random numbers.
        bounds: Least and largest r(t).
        valid: The sites of the global batch that may be hidden, on the CPU; None for all.
    """
    host = draws.host()
    ratio = draw_ratio(schedule, host, bounds)
    if masking == "exact":  # the ratios alone tell how many are masked in the global batch
        masked = draw_mask(ratio, length, host, valid=None if valid is None else of_batch(valid, draws))
        each = length if valid is None else valid.sum(1)
        total = int(masked_count(draw_ratio(schedule, host.whole(), bounds), each).sum())
    else:
        every = draws.once(
            ("masked", length, schedule, bounds), lambda: _every_mask(schedule, host, length, bounds, valid)
        )
        masked, total = of_batch(every, draws), int(every.sum())
    rows, kept = (sites.flatten().nonzero().squeeze(1) for sites in (masked, ~masked))
    return Remask(
        ratio=ratio,
        counts=masked.sum(1),
        masked=transfer(masked, draws.device),
        rows=transfer(rows, draws.device),
        kept=transfer(kept, draws.device),
        total=total,
    )


def of_batch(every: Bool[Tensor, "N L"], draws: Draws) -> Bool[Tensor, "B L"]:
    """The rows of a micro-batch, of the global batch's."""
    return every[draws.start :][: draws.count]


def valid_rows(valid: Bool[Tensor, "N L"] | None, draws: Draws) -> Rows | None:
    """Flat rows of a micro-batch's valid sites; None for all."""
    if valid is None:
        return None
    return transfer(of_batch(valid, draws).flatten().nonzero().squeeze(1), draws.device)


def _every_mask(
    schedule: Schedule,
    draws: Draws,
    length: int,
    bounds: tuple[float, float],
    valid: Bool[Tensor, "N {length}"] | None,
) -> Bool[Tensor, "N {length}"]:
    """The Bernoulli masks of the global batch, drawn one block of rows at a time."""
    whole, size = draws.whole(), block_rows(length)
    parts = [whole.slice(start, min(size, whole.total - start)) for start in range(0, whole.total, size)]
    masks = [
        draw_mask(
            draw_ratio(schedule, p, bounds),
            length,
            p,
            "bernoulli",
            None if valid is None else of_batch(valid, p),
        )
        for p in parts
    ]
    return torch.cat(masks)
