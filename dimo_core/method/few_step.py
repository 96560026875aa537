"""A generator of a few steps: it completes, hides a part again, and completes that."""

from collections.abc import Callable, Mapping
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar, Literal

import attrs
import torch
from attrs import validators as v
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dimo_core.backbone import full
from dimo_core.conditions import Condition
from dimo_core.device import transfer
from dimo_core.draws import Draws, smallest
from dimo_core.generator import Rollout, filtered
from dimo_core.method import process
from dimo_core.method.logits import chunks
from dimo_core.method.one_step import OneStep, OneStepGenerator
from dimo_core.method.orders import halton_places
from dimo_core.teacher import Teacher
from dimo_core.tokens import Tokens


@attrs.frozen(kw_only=True)
class FewStep(OneStep):
    """Generator of k steps: from x_init, then from what it decided itself, with the rest masked again.

    Attributes:
        steps: k, forward passes of a sample; of L tokens, at most L passes. Training takes one of them, drawn
            anew for each batch, from the state that the passes before it lead to.
        schedule: r(t): after i of k passes exactly round(r(1 - i / k) L) tokens are masked again; each pass
            decides one at least.
        order: Which sites a pass decides, in training and in sampling: random ones, such as lie far from one
            another (``halton``: the next ones of a Halton sequence, shifted at random for each sample), or
            those whose drawn tokens have the largest probability under z_theta at temperature 1.
        gumbel: Strength of the Gumbel noise on these log-probabilities; as in MaskGIT's sampler it falls
            linearly, to 0 at the last pass.
    """

    suggested_as: ClassVar[str] = "one_step"

    steps: int = attrs.field(default=4, validator=v.ge(1))
    schedule: process.Schedule = "arccos"
    order: Literal["random", "halton", "confidence"] = "random"
    gumbel: float = attrs.field(default=1.0, validator=v.ge(0))

    @property
    def passes(self) -> int:
        """``steps``; a generator of fewer tokens takes fewer."""
        return self.steps

    def build(self, teacher: Teacher, *, skeleton: bool = False) -> "FewStepGenerator":
        """A generator with the teacher's weights, or with those of ``init``.

        Raises:
            CheckpointError: when ``init`` holds no generator of this shape.
        """
        return FewStepGenerator(
            self, teacher.tokens, OneStep.build(self, teacher, skeleton=skeleton).backbone
        )


def decided_per_pass(length: int, steps: int, schedule: process.Schedule = "arccos") -> list[int]:
    """How many tokens each pass of a generator of several steps decides: positive numbers, of sum L.

    After pass i of k, L - round(r(1 - i / k) L) tokens are decided, but one more than after the pass before,
    and so few that one is left for each pass that comes. More steps than tokens are as many as tokens.

    Args:
        length: Number of tokens L.
        steps: Steps asked for.
        schedule: r(t).
    """
    return [*_decided(length, steps, schedule)]


@cache
def _decided(length: int, steps: int, schedule: process.Schedule) -> tuple[int, ...]:
    if length == 0:
        return ()
    k, done = min(steps, length), [0]
    left = 1 - torch.arange(1, k + 1, dtype=torch.float64, device="cpu") / k
    for i, masked in enumerate((process.mask_ratio(left, schedule) * length).round().tolist(), 1):
        done.append(min(max(length - int(masked), done[-1] + 1), length - (k - i)))
    return tuple(after - before for before, after in pairwise(done))


@attrs.frozen(kw_only=True, eq=False)
class State:
    """Where a sample is before a pass.

    Attributes:
        x: Its tokens: x_init, or what is decided among masks.
        decided: Sites that stay as they are.
        sites: How many of its sites are not given.
        valid: Which; None for all.
    """

    x: Tokens
    decided: Bool[Tensor, "B L"]
    sites: tuple[int, ...]
    valid: Bool[Tensor, "B L"] | None = None


class FewStepGenerator(OneStepGenerator):
    """z_theta = backbone(noisy embeddings of x_init), then backbone(x_t); each pass decides some sites."""

    options: FewStep

    @property
    def passes(self) -> int:  # type: ignore[override]  # of the options
        """As many as steps, at most as many as tokens."""
        return min(self.options.steps, self.space.length)

    @property
    def steps(self) -> int:
        """Those of the options, as of a sampler that has no use for all."""
        return self.options.steps

    def rollout(self, c: Condition, draws: Draws) -> Rollout:
        """One pass with its graph, after a number of passes without that is drawn for the whole batch."""
        u = float(draws.host().whole().slice(0, 1).uniform("step"))
        last, state = int(u * self.passes), self._start(self.options.r_init, c, draws)
        for i in range(last):
            with torch.no_grad():
                hidden = self._pass(i, state, c, draws, self.options.r_init, self.options.sigma(draws.step))
                state = self._next(i, state, hidden, draws, _as_trained)
        hidden = self._pass(last, state, c, draws, self.options.r_init, self.options.sigma(draws.step))
        u_theta = draws.uniform(_stream(last), self.space.length)
        decided = None if last == 0 and state.valid is None else state.decided
        return Rollout(x_init=state.x, hidden=hidden, u=u_theta, decided=decided)

    @torch.no_grad()
    def sample(self, c: Condition, draws: Draws) -> Tokens:
        """``passes`` forward passes, each followed by a draw with the sampling temperature and filters."""
        o = self.options
        r_init, sigma_init = o.sampled_from()
        state = self._start(r_init, c, draws)
        for i in range(self.passes):
            hidden = self._pass(i, state, c, draws, r_init, sigma_init)
            state = self._next(
                i, state, hidden, draws, lambda z: filtered(z, o.temperature, o.top_k, o.top_p)
            )
        return state.x

    def sampling(self) -> Mapping[str, Any]:
        """Those of one step, the steps, and which sites each decides."""
        added = ("steps", "schedule", "order", "gumbel")
        return {**super().sampling(), **{name: getattr(self.options, name) for name in added}}

    def masked_share(self, i: int, state: State) -> Float[Tensor, " B"]:
        """Share of tokens that are masked after ``i`` passes; 1 before the first, which sees x_init."""
        sites = torch.tensor(state.sites, dtype=torch.get_default_dtype()).clamp_min(1)
        return transfer(self._left(i, state) / sites, state.x.device)

    def _start(self, r_init: float, c: Condition, draws: Draws) -> State:
        given = self.space.given(c)
        x = process.initial_tokens(self.space, r_init, draws, given)
        if given is None or x.is_meta:  # without values, as if nothing were given
            return State(
                x=x,
                decided=torch.zeros_like(x, dtype=torch.bool),
                sites=(self.space.length,) * draws.count,
            )
        sites = tuple(given.valid.sum(1).tolist())
        return State(x=x, decided=~given.valid, sites=sites, valid=given.valid)

    def _pass(
        self, i: int, state: State, c: Condition, draws: Draws, r_init: float, sigma_init: float
    ) -> Float[Tensor, "B L D"]:
        """Hidden states of pass ``i``."""
        if i == 0:
            return self._hidden(state.x, c, draws, r_init, sigma_init)
        return self.denoise(state.x, c, draws, mask_ratio=self.masked_share(i, state))

    def _next(
        self,
        i: int,
        state: State,
        hidden: Float[Tensor, "B L D"],
        draws: Draws,
        change: Callable[[Tensor], Tensor],
    ) -> State:
        """After pass ``i``: tokens are drawn from changed logits and decided, but for those masked again."""
        drawn = self._drawn(hidden, draws, change, _stream(i))
        x = torch.where(state.decided, state.x, drawn)
        left = self._left(i + 1, state)
        # Orders that are the same in every pass: what is masked again was masked before.
        match self.options.order:
            case "random":
                masked = draws.subset("order", self.space.length, left, state.valid)
            case "halton":
                masked = smallest(-halton_places(self.space, draws).float(), left, state.valid)
            case "confidence":
                masked = self._least_sure(i, left, state, hidden, x, draws)
        return attrs.evolve(state, x=process.apply_mask(x, masked, self.space), decided=~masked)

    def _least_sure(
        self,
        i: int,
        left: Int[Tensor, " B"],
        state: State,
        hidden: Float[Tensor, "B L D"],
        x: Tokens,
        draws: Draws,
    ) -> Bool[Tensor, "B L"]:
        """The ``left`` sites of each sample whose tokens have the smallest probability, with noise."""
        sites, score = torch.arange(x.numel(), device=x.device), []
        for k in chunks(len(sites), len(sites), self.space.columns):
            log_p = full(self.head(hidden, sites[k])).log_softmax(-1)
            score.append(log_p.gather(-1, x.flatten()[k, None]).squeeze(-1))
        noise = self.options.gumbel * (1 - i / max(1, self.passes - 1))
        sure = torch.cat(score).view_as(x) + noise * draws.gumbel(f"gumbel{i}", self.space.length)
        return smallest(sure, left, ~state.decided)

    def _left(self, i: int, state: State) -> Int[Tensor, " B"]:
        """How many tokens of each sample are left to decide after ``i`` passes."""
        o = self.options
        left = {n: sum(decided_per_pass(n, o.steps, o.schedule)[i:]) for n in set(state.sites)}
        return torch.tensor([left[n] for n in state.sites])


def _stream(i: int) -> str:
    """Name of the draw of x_theta in pass ``i``; the first one's is that of a one-step generator."""
    return f"x_theta{i or ''}"


def _as_trained(z: Tensor) -> Tensor:
    return z
