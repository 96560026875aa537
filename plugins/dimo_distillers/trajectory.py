"""A few steps of a teacher from a partly masked state, and what it predicted where it decided."""

from collections.abc import Callable, Sequence
from typing import Literal

import attrs
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dimo_core.backbone import Rows
from dimo_core.draws import Draws, categorical
from dimo_core.method.logits import chunks
from dimo_core.method.process import Schedule, mask_ratio
from dimo_core.tokens import Tokens, TokenSpace

Grid = Literal["consecutive", "endpoints", "released"]
Scores = Callable[[Tokens, Float[Tensor, " B"], int], Callable[[Rows], Float[Tensor, "K V"]]]
"""From a state, its mask ratio and the number of the step: what gives the teacher's logits of flat rows."""


def times(t: Float[Tensor, " B"], dt: float, steps: int, grid: Grid, least: float = 1e-5) -> list[Tensor]:
    """The time at which each of the teacher's steps begins; each takes it to ``dt`` before.

    Args:
        t: Time of the student's state.
        dt: Length of a step.
        steps: k, how many there are.
        grid: ``consecutive``: t - i dt (paper). ``endpoints``: evenly from t to t - k dt. ``released``: what
            the released code computes, where a factor is mistaken: the first time is later than t.
        least: No time is before.
    """
    spaced = torch.linspace(1, 0, steps, dtype=torch.float64).to(t) if steps > 1 else t.new_ones(1)
    match grid:
        case "consecutive":
            every = [t - i * dt for i in range(steps)]
        case "endpoints":
            every = [t * space + (1 - space) * (t - steps * dt) for space in spaced]
        case "released":
            every = [t * space + (1 - t) * (t - steps * dt) for space in spaced]
    return [each.clamp_min(least) for each in every]


@attrs.frozen(kw_only=True, eq=False)
class Trajectory:
    """What the teacher did.

    Attributes:
        scores: Of each step, what gives the teacher's logits of flat rows.
        decided_at: The step in which a site was decided; the last one's number where it never was; -1 where
            it was visible before.
    """

    scores: Sequence[Callable[[Rows], Float[Tensor, "K V"]]]
    decided_at: Int[Tensor, "B L"]

    def target(self, rows: Rows) -> Float[Tensor, "K V"]:
        """Logits at flat rows from the step that decided them."""
        step = self.decided_at.flatten()[rows]
        z = self.scores[0](rows)
        for i, score in enumerate(self.scores[1:], 1):
            z = torch.where((step == i)[:, None], score(rows), z)
        return z


@torch.no_grad()
def trajectory(
    x_t: Tokens,
    rows: Rows,
    at: Sequence[Float[Tensor, " B"]],
    dt: float,
    *,
    schedule: Schedule,
    space: TokenSpace,
    scores: Scores,
    draws: Draws,
) -> Trajectory:
    """Ancestral steps: a masked site is decided with probability 1 - r(t - dt) / r(t).

    Args:
        x_t: The state.
        rows: Its masked sites, as flat indices.
        at: Times at which the steps begin.
        dt: Length of a step; what would end before 0 decides all.
        schedule: r(t).
        space: The token space.
        scores: Scores a state.
        draws: Random numbers.
    """
    x, made = x_t.flatten().clone(), []
    decided_at = torch.where(x_t == space.mask_id, len(at) - 1, -1).flatten()
    for i, t in enumerate(at):
        before, after = mask_ratio(t, schedule), mask_ratio((t - dt).clamp_min(0), schedule)
        z = scores(x.view_as(x_t), before, i)
        made.append(z)
        if i + 1 == len(at):  # nobody sees what the last step decides
            break
        stays = (after / before).to(x.device)[:, None].expand(x_t.shape).flatten()[rows]
        decided = (draws.uniform(f"decided{i}", space.length).flatten()[rows] >= stays) & (
            x[rows] == space.mask_id
        )
        u = draws.uniform(f"trajectory{i}", space.length).flatten()[rows]
        for k in chunks(len(rows), len(x), space.columns):
            drawn = categorical(z(rows[k]), u[k])
            x[rows[k]] = torch.where(decided[k], drawn, x[rows[k]])
        decided_at[rows] = torch.where(decided, i, decided_at[rows])
    return Trajectory(scores=made, decided_at=decided_at.view_as(x_t))
