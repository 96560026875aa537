"""The laws of the samplers that follow the reverse process, by enumeration of all states of two sites.

The samplers' own stages and kernels are multiplied out; what is drawn is held against the result.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import torch
from jaxtyping import Float, Int
from scipy.stats import chisquare
from torch import Tensor, nn

from dimo_core.backbone import Backbone, Rows
from dimo_core.draws import Draws
from dimo_core.guidance import Constant
from dimo_core.method.process import mask_ratio
from dimo_core.tokens import Tokens, TokenSpace
from dimo_samplers.ancestral import AncestralSampler
from dimo_samplers.kernel import first_jump, posterior
from dimo_samplers.staged import StagedSampler, ratios
from dimo_samplers.tau_leaping import TauLeapingSampler
from dimo_samplers.trapezoidal import ThetaTrapezoidalSampler

M = 3
STATES = torch.tensor(list(itertools.product(range(M + 1), repeat=2)))


def joint(strength: float) -> Float[Tensor, "V V"]:
    """Two dependent sites of three codes; independent at strength 0."""
    product = torch.tensor([0.5, 0.3, 0.2]).double()[:, None] * torch.tensor([0.3, 0.3, 0.4]).double()
    tilted = product * torch.exp(strength * (1.5 * torch.eye(3).double() - 0.5))
    return tilted / tilted.sum()


WEAK, STRONG = joint(0.1), joint(3.0)


class Exact(Backbone):
    """Logits of the joint's exact conditionals, whatever the mask ratio."""

    def __init__(self, p: Float[Tensor, "V V"]) -> None:
        super().__init__()
        rows, columns = torch.cat([p, p.sum(0)[None]]), torch.cat([p.T, p.sum(1)[None]])
        table = torch.zeros(M + 1, M + 1, 2, 3, dtype=torch.float64)
        table[:, :, 0], table[:, :, 1] = columns.log()[None], rows.log()[:, None]
        self.table = nn.Buffer(table)

    def embed(self, x: Tokens | Float[Tensor, "B L V"]) -> Float[Tensor, "B L E"]:
        raise AssertionError("not used")

    def forward(
        self, x: Tokens | Float[Tensor, "B L E"], c: Tensor, *, mask_ratio: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L D"]:
        return self.table[x[:, 0], x[:, 1]]

    def head(self, hidden: Float[Tensor, "... D"], rows: Rows | None = None) -> Float[Tensor, "... V"]:
        return hidden if rows is None else hidden.flatten(0, 1)[rows]


def after_stage(
    sampler: StagedSampler, stage: Any, paths: Int[Tensor, "N K"], z: Float[Tensor, "S L V"]
) -> Float[Tensor, "N S"]:
    """The law of the state after a stage, given the states at the passes of its step so far."""
    x = STATES[paths[:, -1]]
    masked = x == M
    kernel = sampler.kernel(stage, [z[states][masked] for states in paths.unbind(1)])
    sites = nn.functional.one_hot(x, M + 1).double()
    sites[masked] = torch.cat([kernel.unmask[:, None] * kernel.codes, 1 - kernel.unmask[:, None]], 1)
    return (sites[:, 0, :, None] * sites[:, 1, None, :]).flatten(1)


def laws(sampler: StagedSampler, p: Float[Tensor, "V V"], steps: int) -> list[Float[Tensor, "V1 V1"]]:
    """The law over both sites, masks included, after each step."""
    z = Exact(p).table.flatten(0, 1)
    law, after = torch.zeros(len(STATES), dtype=torch.float64), []
    law[-1] = 1
    for stages in sampler.plan(steps):
        paths = law.nonzero()
        weights = law[paths[:, 0]]
        for stage in stages:
            grown = weights[:, None] * after_stage(sampler, stage, paths, z)
            old, new = grown.nonzero().unbind(1)
            paths, weights = torch.cat([paths[old], new[:, None]], 1), grown[old, new]
        law = torch.zeros_like(law).index_add(0, paths[:, -1], weights)
        after.append(law.view(M + 1, M + 1))
    return after


def forward_law(p: Float[Tensor, "V V"], t: float) -> Float[Tensor, "V1 V1"]:
    """q_t: each site of a draw from the joint masked with probability t, on its own."""
    q = torch.zeros(M + 1, M + 1).double()
    q[:M, :M] = (1 - t) ** 2 * p
    q[:M, M], q[M, :M], q[M, M] = t * (1 - t) * p.sum(1), t * (1 - t) * p.sum(0), t * t
    return q


def distance(a: Tensor, b: Tensor) -> float:
    """Total variation."""
    return float((a - b).abs().sum() / 2)


def errors(sampler: StagedSampler, p: Float[Tensor, "V V"], counts: Sequence[int]) -> list[float]:
    """Total variation between what is drawn in so many steps and the joint."""
    return [distance(laws(sampler, p, steps)[-1], forward_law(p, 0.0)) for steps in counts]


def falls(error: Sequence[float]) -> list[float]:
    return [before / after for before, after in itertools.pairwise(error)]


def at_delta(sampler: StagedSampler, p: Float[Tensor, "V V"], counts: Sequence[int]) -> list[float]:
    """Total variation at t = 0.05 after so many steps from t = 1."""
    stopped = attrs.evolve(sampler, delta=0.05)
    return [distance(laws(stopped, p, steps + 1)[-2], forward_law(p, 0.05)) for steps in counts]


def test_theta_trapezoidal_is_of_second_order_and_equals_the_reference_errors() -> None:
    """1.3e-3, 3.4e-4 and 8.7e-5 are those of an independent computation with weakly dependent tokens."""
    error = at_delta(ThetaTrapezoidalSampler(power=1.0), WEAK, (32, 64, 128))
    assert pytest.approx([1.3e-3, 3.4e-4, 8.7e-5], rel=0.03) == error
    assert min(falls(error)) >= 3.5


def test_tau_leaping_is_of_first_order() -> None:
    error = at_delta(TauLeapingSampler(), WEAK, (32, 64, 128))
    assert all(1.8 <= fall <= 2.2 for fall in falls(error))


@pytest.mark.parametrize("theta", [1 / 3, 0.5])
def test_the_order_holds_for_complete_tokens_as_steps_narrow_towards_the_end(theta: float) -> None:
    """On evenly spaced ratios the error of complete tokens is h^2 log(1 / h): 3.4 and 3.5."""
    default, even = ThetaTrapezoidalSampler(theta=theta), ThetaTrapezoidalSampler(theta=theta, power=1.0)
    error, evenly = (errors(sampler, WEAK, (32, 64, 128)) for sampler in (default, even))
    assert min(falls(error)) >= 3.5
    assert max(falls(evenly)) < 3.5
    assert all(a < b for a, b in zip(error, evenly, strict=True))


@pytest.mark.parametrize("schedule", ["linear", "square"])
def test_tau_leaping_is_of_first_order_for_complete_tokens(schedule: Any) -> None:
    tau = falls(errors(TauLeapingSampler(schedule=schedule), WEAK, (32, 64, 128)))
    assert all(1.8 <= fall <= 2.2 for fall in tau)


@pytest.mark.parametrize("steps", [2, 8, 64])
def test_with_strong_dependence_the_narrowing_costs_little(steps: int) -> None:
    (default,), (even,) = (
        errors(sampler, STRONG, [steps])
        for sampler in (ThetaTrapezoidalSampler(), ThetaTrapezoidalSampler(power=1.0))
    )
    assert default < 1.02 * even


@pytest.mark.parametrize("steps", [4, 32, 128])
def test_with_strong_dependence_the_trapezoid_is_still_nearer_but_no_order_is_claimed(steps: int) -> None:
    (trapezoid,), (tau,) = (
        errors(sampler, STRONG, [steps]) for sampler in (ThetaTrapezoidalSampler(), TauLeapingSampler())
    )
    assert trapezoid < 0.6 * tau


@pytest.mark.parametrize("schedule", ["linear", "square", "cosine", "arccos"])
@pytest.mark.parametrize("p", [WEAK, STRONG], ids=["weak", "strong"])
def test_ancestral_errs_exactly_where_both_sites_are_decided_in_one_step(schedule: Any, p: Tensor) -> None:
    """Then they are drawn independently: dependence times sum (r_i - r_{i + 1})^2, for any schedule."""
    dependence = distance(p, p.sum(1)[:, None] * p.sum(0))
    grid = mask_ratio(torch.linspace(1, 0, 13, dtype=torch.float64), schedule)
    assert (
        pytest.approx(dependence * float(grid.diff().square().sum()), rel=1e-9)
        == errors(AncestralSampler(schedule=schedule), p, [12])[0]
    )


def test_ancestral_converges_to_the_exact_joint() -> None:
    coarse, fine = errors(AncestralSampler(), STRONG, (16, 1024))
    assert pytest.approx(coarse / 64, rel=1e-6) == fine
    assert fine < 1e-3


@pytest.mark.parametrize("schedule", ["linear", "arccos"])
def test_ancestral_is_exact_in_the_masks_at_every_step(schedule: Any) -> None:
    grid = ratios(6, schedule)
    for law, r in zip(laws(AncestralSampler(schedule=schedule), STRONG, 6), grid[1:], strict=True):
        assert pytest.approx([r * r, r]) == [float(law[M, M]), float(law[M].sum())]


SAMPLERS = (
    AncestralSampler(schedule="arccos", temperature=1.3),
    TauLeapingSampler(),
    TauLeapingSampler(delta=0.2, schedule="cosine"),
    ThetaTrapezoidalSampler(),
    ThetaTrapezoidalSampler(theta=0.3, delta=0.1, temperature=0.8),
)


def counted(sampler: StagedSampler, steps: int, count: int, tiny_teacher: Any) -> list[Int[Tensor, "V1 V1"]]:
    """How often each state was drawn, after each step."""
    space = TokenSpace(length=2, codes=3, mask_id=M)
    teacher = type("Two", (type(tiny_teacher),), {"tokens": space})()
    sampled = sampler.sample(
        teacher,
        Exact(STRONG),
        torch.zeros(count, dtype=torch.long),
        steps=steps,
        guidance=Constant(),
        draws=Draws(seed=0, total=count),
        keep_trajectory=True,
    )
    weights = torch.tensor([M + 1, 1])
    return [
        (x * weights).sum(1).bincount(minlength=(M + 1) ** 2).view(M + 1, M + 1) for x in sampled.trajectory
    ]


def p_value(counts: Tensor, law: Tensor) -> float:
    """Of the chi-square test; impossible states must not occur."""
    possible = law > 1e-12
    assert counts[~possible].sum() == 0
    return float(chisquare(counts[possible], law[possible] / law[possible].sum() * counts.sum()).pvalue)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
@pytest.mark.parametrize("steps", [1, 3])
def test_what_is_drawn_follows_the_enumerated_law(
    sampler: StagedSampler, steps: int, tiny_teacher: Any
) -> None:
    drawn = counted(sampler, steps, 40_000, tiny_teacher)
    for counts, law in zip(drawn, laws(sampler, STRONG, steps), strict=True):
        assert p_value(counts, law) > 1e-3


def test_the_comparison_tells_samplers_apart(tiny_teacher: Any) -> None:
    counts = counted(TauLeapingSampler(), 3, 40_000, tiny_teacher)[0]
    assert p_value(counts, laws(AncestralSampler(), STRONG, 3)[0]) < 1e-9


def test_the_first_jump_of_constant_rates_is_exponential() -> None:
    mu = torch.tensor([[0.5, 0.0, 1.5], [1.0, 2.0, 3.0]]).double()
    kernel = first_jump(mu, 0.25)
    assert pytest.approx([1 - math.exp(-0.5), 1 - math.exp(-1.5)]) == kernel.unmask.tolist()
    torch.testing.assert_close(kernel.codes, mu / mu.sum(1, keepdim=True))
    jump, code = kernel.draw(torch.tensor([0.39, 0.8]).double(), torch.tensor([0.26, 0.0]).double())
    assert ([True, False], 2) == (jump.tolist(), int(code[0]))


def test_the_posterior_is_that_of_any_schedule_and_certain_at_the_end() -> None:
    z = torch.randn(4, 3).double()
    alpha_t, alpha_s = 0.3, 0.55
    kernel = posterior(z, 1 - alpha_t, 1 - alpha_s)
    assert pytest.approx([(alpha_s - alpha_t) / (1 - alpha_t)] * 4) == kernel.unmask.tolist()
    torch.testing.assert_close(kernel.codes, z.softmax(-1))
    assert [1.0] * 4 == posterior(z, 0.1, 0.0).unmask.tolist()
