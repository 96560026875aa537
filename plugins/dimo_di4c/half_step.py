"""One short step of the teacher, from x_t to N different x_u: draw everywhere, keep the most certain few.

u runs from 0, all masked, to 1, clean; the time of the rest of dimo is t = 1 - u.
"""

import math
from functools import cache
from typing import Literal

import attrs
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dimo_core.device import transfer
from dimo_core.draws import Draws
from dimo_core.errors import UsageError
from dimo_core.method.process import of_batch
from dimo_core.tokens import Tokens, TokenSpace

Schedule = Literal["arccos", "cosine", "linear", "square", "root"]


def mask_share(u: Float[Tensor, " *B"], schedule: Schedule) -> Float[Tensor, " *B"]:
    """r(u), the share of masked tokens, 1 at u = 0 and 0 at u = 1; the names are those of MaskGIT-pytorch.

    Its ``square``, 1 - u^2, is another one than that of the objective ``dimo``, (1 - u)^2.
    """
    match schedule:
        case "arccos":
            return u.acos() * (2 / math.pi)
        case "cosine":
            return (u * (math.pi / 2)).cos()
        case "linear":
            return 1 - u
        case "square":
            return 1 - u.square()
        case "root":
            return 1 - u.sqrt()


def unmask_counts(
    u: Float[Tensor, " B"],
    masked: Int[Tensor, " B"],
    *,
    delta: float,
    length: int | Int[Tensor, " B"],
    schedule: Schedule,
) -> Int[Tensor, " B"]:
    """How many tokens become visible on the way from u to u + delta.

    It is counted from what is masked towards the schedule, so an x_t with fewer masks than expected gets
    fewer or none: trunc((1 - r(u')) L - (L - masked)), from 0 to ``masked``.

    Args:
        u: Share of the way to clean data.
        masked: Masked tokens of x_t.
        delta: How far the step goes; u' = min(u + delta, 1).
        length: L, or that of each sample.
        schedule: r.
    """
    left = mask_share((u + delta).clamp(max=1.0), schedule)
    wanted = ((1 - left) * length - (length - masked)).trunc().long()
    return wanted.clamp(min=0).minimum(masked)


@attrs.frozen(kw_only=True, eq=False)
class State:
    """x_t and what is known of it; u is on the CPU, all else on the training device.

    Attributes:
        u: Its time.
        x_t: Re-masked data.
        masked: Its masked sites.
        ratio: r(u), as networks are told.
        counts: Tokens that the teacher's step makes visible.
        ratio_u: Share of tokens that are masked after that.
        given: The sites that conditions give; None for none.
        restricted: Whether some codes are forbidden.
    """

    u: Float[Tensor, " B"]
    x_t: Tokens
    masked: Bool[Tensor, "B L"]
    ratio: Float[Tensor, " B"]
    counts: Int[Tensor, " B"]
    ratio_u: Float[Tensor, " B"]
    given: Bool[Tensor, "B L"] | None = None
    restricted: bool = False

    def open(self, z: Float[Tensor, "B ... V"]) -> Float[Tensor, "B ... V"]:
        """Logits without a say in what is given: there all models agree, and nothing is learnt.

        Those of forbidden codes are finite, as 0 times their logarithm shall be 0.
        """
        z = z.clamp_min(torch.finfo(z.dtype).min / 4) if self.restricted else z
        if self.given is None:
            return z
        given = self.given if z.dim() == 3 else self.given[:, None]
        return z.masked_fill(given[..., None], 0.0)


def draw_state(
    x_0: Tokens,
    space: TokenSpace,
    draws: Draws,
    *,
    delta: float,
    schedule: Schedule,
    valid: Bool[Tensor, "N L"] | None = None,
) -> State:
    """x_t at u ~ U[0, 1], each site masked by itself, so that there may be no mask; drawn on the CPU.

    Args:
        x_0: Clean tokens.
        space: Their space.
        draws: Random numbers.
        delta: The teacher's step.
        schedule: r.
        valid: The sites of the global batch that may be masked; None for all.
    """
    host = draws.host()
    u = host.uniform("u").double()
    ratio = mask_share(u, schedule)
    masked = host.uniform("masked", space.length) < ratio[:, None]
    sites = torch.full((draws.count,), space.length, device=u.device)
    if valid is not None:
        masked, sites = masked & of_batch(valid, draws), of_batch(valid, draws).sum(1)
    many = masked.sum(1)
    counts = unmask_counts(u, many, delta=delta, length=sites, schedule=schedule)
    here = transfer(masked, draws.device)
    return State(
        u=u,
        x_t=x_0.masked_fill(here, space.mask_id),
        masked=here,
        ratio=transfer(ratio.float(), draws.device),
        counts=transfer(counts, draws.device),
        ratio_u=transfer((many - counts) / sites.clamp_min(1), draws.device),
        given=None if valid is None else transfer(~of_batch(valid, draws), draws.device),
        restricted=space.restricted,
    )


def gumbel_scale(u: Float[Tensor, " B"], steps: int) -> Float[Tensor, " B"]:
    """1 - u T / (T - 1), what is left of the noise; negative beyond u = (T - 1) / T, as released."""
    return 1 - u * steps / (steps - 1)


def most_certain(
    score: Float[Tensor, "*B L"], undecided: Bool[Tensor, "*B L"], count: Int[Tensor, "*B"]
) -> Bool[Tensor, "*B L"]:
    """The ``count`` undecided sites of largest score in each row."""
    order = score.masked_fill(~undecided, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    return (order.argsort(dim=-1) < count[..., None]) & undecided


def completed(
    x_t: Tokens, drawn: Int[Tensor, "B N L"], chosen: Bool[Tensor, "B N L"]
) -> Int[Tensor, "B N L"]:
    """x_u: x_t with the chosen of the drawn tokens."""
    return torch.where(chosen, drawn, x_t[:, None])


def tokens_per_step(length: int, steps: int, schedule: Schedule) -> list[int]:
    """How many tokens each step of the sampler decides: differences of round(r(j / steps) L), at least one.

    The last step takes what is left.

    Raises:
        UsageError: when nothing is left for it.
    """
    return [*_counts(length, steps, schedule)]


@cache
def _counts(length: int, steps: int, schedule: Schedule) -> tuple[int, ...]:
    u = torch.linspace(0, 1, steps + 1, dtype=torch.float64, device="cpu")
    left = (mask_share(u, schedule) * length).round().long()
    counts: list[int] = (left[:-1] - left[1:]).clamp(min=1).tolist()
    counts[-1] = length - sum(counts[:-1])
    if counts[-1] < 1:
        raise UsageError(
            f"{steps} steps of at least one token each, by the schedule {schedule!r}, decide all {length} "
            "tokens before the last one. Take fewer steps."
        )
    return tuple(counts)
