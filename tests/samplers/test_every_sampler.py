"""What every sampler of the package keeps: complete tokens, honest passes, draws by position, options."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import attrs
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor, nn

from dimo_core import conditions
from dimo_core.backbone import Backbone, Rows
from dimo_core.conditions import Condition
from dimo_core.draws import Draws
from dimo_core.guidance import Adaptive, Constant, Guidance, Ramp
from dimo_core.registry import Registry
from dimo_core.sampler import Sampled, Sampler
from dimo_core.testing import check_sampler
from dimo_core.tokens import Tokens, TokenSpace
from dimo_maskgit.teacher import MaskGit
from dimo_samplers.ancestral import AncestralSampler
from dimo_samplers.blockwise import BlockwiseSampler
from dimo_samplers.dream import DreamSampler
from dimo_samplers.halton import HaltonSampler
from dimo_samplers.maskgit import MaskGitSampler, tokens_per_step
from dimo_samplers.ordered import OrderedSampler
from dimo_samplers.random_order import RandomOrderSampler
from dimo_samplers.staged import StagedSampler, ratios
from dimo_samplers.tau_leaping import TauLeapingSampler
from dimo_samplers.threshold import ThresholdSampler
from dimo_samplers.trapezoidal import ThetaTrapezoidalSampler

STAGED = (AncestralSampler(), TauLeapingSampler(), TauLeapingSampler(delta=0.01), ThetaTrapezoidalSampler())
ORDERED = (RandomOrderSampler(), HaltonSampler(), HaltonSampler(roll=True, counts="share", schedule="cosine"))
TEXT = (
    BlockwiseSampler(block=256, temperature=2.0),
    BlockwiseSampler(block=None, order="random", temperature=4.0, never=(2,), last=(1,)),
    DreamSampler(alg="origin", temperature=1.0, top_p=0.9),
    DreamSampler(alg="maskgit_plus", temperature=0.5, top_k=3, alg_temp=0.2),
)
SAMPLERS: tuple[Sampler, ...] = (*ORDERED, *STAGED, *TEXT)
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS, ids=str)


class Watched(Backbone):
    """Each site sees itself, the mean and its condition; the head is asked about masked sites only."""

    def __init__(self, space: TokenSpace) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.codes = nn.Buffer(torch.randn(space.codes + 1, 7, generator=generator))
        self.out = nn.Buffer(torch.randn(7, space.columns, generator=generator))
        self.space, self.seen, self.ratios = space, list[Tokens](), list[Tensor]()
        self.asked: list[int] = []

    def embed(self, x: Tokens | Float[Tensor, "B L V"]) -> Float[Tensor, "B L E"]:
        raise AssertionError("not used")

    def forward(
        self, x: Tokens | Float[Tensor, "B L E"], c: Condition, *, mask_ratio: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L D"]:
        self.seen.append(x)
        self.ratios.append(mask_ratio)
        e = self.codes[x.clamp_max(self.space.codes)]
        return e + 2 * e.mean(1, keepdim=True) + c["text"].mean(1)[:, None, None]

    def head(self, hidden: Float[Tensor, "... D"], rows: Rows | None = None) -> Float[Tensor, "... V"]:
        assert rows is not None
        self.asked.append(len(rows))
        assert bool((self.seen[-1].flatten()[rows] == self.space.mask_id).all())
        return hidden.flatten(0, 1)[rows] @ self.out


def prompted(tiny_teacher: Any, space: TokenSpace) -> Any:
    """A teacher whose conditions are trees: embeddings of a prompt, and its length."""

    def null_condition(self: Any, c: Condition) -> Condition:
        return conditions.tree_map(torch.zeros_like, c)

    return type("Prompted", (type(tiny_teacher),), {"tokens": space, "null_condition": null_condition})()


def prompts(count: int) -> Condition:
    text = torch.linspace(-1, 1, 3 * count).view(count, 3)
    return {"text": text, "length": torch.arange(count)}


def drawn(
    sampler: Sampler,
    teacher: Any,
    steps: int,
    *,
    count: int = 2,
    guidance: Guidance | None = None,
    network: Backbone | None = None,
) -> Sampled:
    return sampler.sample(
        teacher,
        network or Watched(teacher.tokens),
        prompts(count),
        steps=steps,
        guidance=guidance or Constant(),
        draws=Draws(seed=5, total=count),
        keep_trajectory=True,
    )


@every_sampler
def test_samplers_keep_the_contract(sampler: Sampler, tiny_teacher: Any) -> None:
    check_sampler(sampler, tiny_teacher, [0, 1, 1])


@pytest.mark.parametrize("by", ["confidence", "entropy"])
@pytest.mark.parametrize("block", [None, 3])
def test_a_sampler_without_draws_keeps_it_too(by: Any, block: int | None, tiny_teacher: Any) -> None:
    """How many steps it takes is up to the network, and never more than are asked for."""
    check_sampler(ThresholdSampler(by=by, threshold=0.4, block=block), tiny_teacher, [0, 1, 1])
    teacher = prompted(tiny_teacher, TokenSpace(length=30, codes=6, mask_id=6))
    sure = drawn(ThresholdSampler(by=by, threshold=0 if by == "confidence" else 99, block=10), teacher, 9)
    assert sure.passes == 3, "a pass for each block"
    unsure = drawn(ThresholdSampler(by=by, threshold=2 if by == "confidence" else 0, block=10), teacher, 99)
    assert unsure.passes == 30, "a pass for each token"


@every_sampler
def test_a_scored_mask_may_be_drawn_and_is_then_decided(sampler: Sampler, tiny_teacher: Any) -> None:
    check_sampler(sampler, attrs.evolve(tiny_teacher, keep=True), [0, 1, 1])


@pytest.mark.parametrize("sampler", [*ORDERED, MaskGitSampler(), MaskGitSampler(order="random")], ids=str)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_host_waits_for_nothing_where_counts_are_known(
    sampler: Sampler, scale: float, tiny_teacher: Any
) -> None:
    """On meta tensors it would be an error. Staged samplers wait: how many sites jump is drawn."""
    drawn = sampler.sample(
        tiny_teacher,
        tiny_teacher.network().to("meta"),
        torch.zeros(3, dtype=torch.long, device="meta"),
        steps=3,
        guidance=Constant(scale=scale),
        draws=Draws(seed=5, total=3, device=torch.device("meta")),
    )
    assert (3, 4) == drawn.tokens.shape


@given(
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    plane=st.booleans(),
    steps=st.integers(1, 50),
    scale=st.sampled_from([0.0, 1.0, 3.0]),
    temperature=st.sampled_from([0.2, 1.0, 5.0]),
    sampler=st.sampled_from(SAMPLERS),
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_mask_is_left_and_no_code_changes_at_any_step_count_on_any_grid(
    tiny_teacher: Any,
    rows: int,
    columns: int,
    plane: bool,
    steps: int,
    scale: float,
    temperature: float,
    sampler: Any,
) -> None:
    grid = (rows, columns) if plane else None
    teacher = prompted(tiny_teacher, TokenSpace(length=rows * columns, codes=4, mask_id=9, grid=grid))
    sampler = attrs.evolve(sampler, temperature=temperature)
    sampled = drawn(sampler, teacher, steps, guidance=Constant(scale=scale))
    assert bool(((sampled.tokens >= 0) & (sampled.tokens < 4)).all())
    before = torch.full_like(sampled.tokens, 9)
    for x in sampled.trajectory:
        assert torch.equal(before[before != 9], x[before != 9])
        before = x
    assert torch.equal(before, sampled.tokens)
    assert len(sampled.trajectory) <= steps


@every_sampler
@pytest.mark.parametrize("steps", [1, 2, 7, 12, pytest.param(40, marks=pytest.mark.slow)])
def test_passes_are_counted_as_made_with_guidance_as_without(
    sampler: Sampler, steps: int, tiny_teacher: Any
) -> None:
    teacher = prompted(tiny_teacher, TokenSpace(length=12, codes=4, mask_id=4, grid=(3, 4)))
    for guidance in (Constant(), Constant(scale=2.0), Ramp(scale=3.0), Adaptive(scale=2.0)):
        network = Watched(teacher.tokens)
        sampled = drawn(sampler, teacher, steps, count=3, guidance=guidance, network=network)
        assert sum(len(x) for x in network.seen) == 3 * sampled.passes


@every_sampler
def test_a_step_takes_one_pass_and_two_with_theta_trapezoidal(sampler: Sampler, tiny_teacher: Any) -> None:
    teacher = prompted(tiny_teacher, TokenSpace(length=200, codes=4, mask_id=4))
    each = 2 if isinstance(sampler, ThetaTrapezoidalSampler) else 1
    for steps in (1, 2, 5):
        assert each * steps == drawn(sampler, teacher, steps).passes
        assert 2 * each * steps == drawn(sampler, teacher, steps, guidance=Constant(scale=2.0)).passes
    ramp = drawn(sampler, teacher, 5, guidance=Ramp(scale=2.0)).passes
    assert 2 * each * 5 - 1 == ramp  # s = 1 at the very first pass only


@every_sampler
def test_a_sample_is_the_same_in_any_split_of_the_batch(sampler: Sampler, tiny_teacher: Any) -> None:
    teacher = prompted(tiny_teacher, TokenSpace(length=30, codes=6, mask_id=6, grid=(5, 6)))
    draws, c = Draws(seed=2, total=7), prompts(7)
    options = {"steps": 6, "guidance": Constant(scale=1.5)}
    network = Watched(teacher.tokens)
    whole = sampler.sample(teacher, network, c, draws=draws, **options).tokens
    for bounds in ((0, 1, 7), (0, 3, 4, 7), (0, 5, 7)):
        parts = [
            sampler.sample(
                teacher, network, conditions.index(c, slice(a, b)), draws=draws.slice(a, b - a), **options
            ).tokens
            for a, b in pairwise(bounds)
        ]
        assert torch.equal(whole, torch.cat(parts))
    other = sampler.sample(teacher, network, c, draws=attrs.evolve(draws, seed=3), **options).tokens
    assert not torch.equal(whole, other)


@pytest.mark.parametrize("sampler", ORDERED, ids=str)
def test_only_the_sites_of_the_step_reach_the_head(sampler: OrderedSampler, tiny_teacher: Any) -> None:
    teacher = prompted(tiny_teacher, TokenSpace(length=30, codes=6, mask_id=6, grid=(5, 6)))
    network = Watched(teacher.tokens)
    drawn(sampler, teacher, 5, count=3, network=network)
    assert [3 * n for n in tokens_of(sampler, 30, 5)] == network.asked


def tokens_of(sampler: OrderedSampler, length: int, steps: int) -> list[int]:
    if sampler.counts == "halton":
        return {(30, 5): [3, 4, 5, 5, 13]}[length, steps]  # floor(30 (1 - arccos(i / 5) 2 / pi))
    return tokens_per_step(length, steps, sampler.schedule, sampler.counts)


@pytest.mark.parametrize("sampler", STAGED, ids=str)
def test_the_network_sees_each_samples_own_share_of_masks(sampler: Sampler, tiny_teacher: Any) -> None:
    teacher = prompted(tiny_teacher, TokenSpace(length=30, codes=6, mask_id=6))
    network = Watched(teacher.tokens)
    drawn(sampler, teacher, 5, count=3, network=network)
    for x, ratio in zip(network.seen, network.ratios, strict=True):
        torch.testing.assert_close((x == 6).float().mean(1), ratio)


@attrs.frozen
class Recorder(Guidance):
    """Remembers what it was asked."""

    asked: list[tuple[float, float]] = attrs.field(factory=list)

    def at(self, mask_ratio: Float[Tensor, " B"], progress: float | None = None) -> Float[Tensor, " B"]:
        assert mask_ratio.unique().numel() == 1
        assert progress is not None
        self.asked.append((float(mask_ratio[0]), progress))
        return torch.ones_like(mask_ratio)


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (AncestralSampler(), [(1, 0), (2 / 3, 0.5), (1 / 3, 1)]),
        (TauLeapingSampler(schedule="square"), [(1, 0), (4 / 9, 0.5), (1 / 9, 1)]),
        (TauLeapingSampler(delta=0.2), [(1, 0), (0.6, 0.5), (0.2, 1)]),
        (
            ThetaTrapezoidalSampler(theta=0.25, power=1.0),
            [(1, 0), (11 / 12, 0.125), (2 / 3, 0.5), (7 / 12, 0.625), (1 / 3, 1), (0.25, 1)],
        ),
    ],
    ids=str,
)
def test_guidance_is_asked_at_the_time_of_every_pass(
    sampler: Sampler, expected: Sequence[tuple[float, float]], tiny_teacher: Any
) -> None:
    teacher = prompted(tiny_teacher, TokenSpace(length=100, codes=6, mask_id=6))
    recorder = Recorder()
    drawn(sampler, teacher, 3, guidance=recorder)
    assert pytest.approx(torch.tensor(expected)) == torch.tensor(recorder.asked)


@pytest.mark.parametrize("sampler", STAGED, ids=str)
def test_sampling_stops_when_nothing_is_masked_any_more(sampler: StagedSampler, tiny_teacher: Any) -> None:
    """Two tokens and 300 steps: the last ones find nothing to do, and take no pass."""
    teacher = prompted(tiny_teacher, TokenSpace(length=2, codes=6, mask_id=6))
    network = Watched(teacher.tokens)
    sampled = drawn(sampler, teacher, 300, network=network)
    assert sampled.passes == len(network.seen) < 300 * len(sampler.plan(1)[0])
    assert bool((sampled.trajectory[-2] == 6).any())


@pytest.mark.parametrize("sampler", [*ORDERED, AncestralSampler(), TauLeapingSampler()], ids=str)
def test_a_low_temperature_takes_the_likeliest_code(sampler: Any, tiny_teacher: Any) -> None:
    teacher = prompted(tiny_teacher, TokenSpace(length=6, codes=6, mask_id=6))
    network = Watched(teacher.tokens)
    hidden = network(torch.full((2, 6), 6), prompts(2), mask_ratio=torch.ones(2))
    best = (hidden @ network.out).argmax(-1)
    cold = attrs.evolve(sampler, temperature=1e-4)
    assert torch.equal(best, drawn(cold, teacher, 1, network=network).tokens)
    first = drawn(cold, teacher, 3, network=network).trajectory[0]
    assert 0 < int((first != 6).sum()) < 12
    assert torch.equal(best[first != 6], first[first != 6])


@every_sampler
def test_logits_in_parts_draw_the_same_tokens(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = MaskGit()
    network, c = teacher.network(), torch.tensor([0, 1, 1])

    def sampled() -> Tensor:
        options = {"steps": 4, "guidance": Constant(scale=2.0), "draws": Draws(seed=3, total=3)}
        return sampler.sample(teacher, network, c, **options).tokens

    whole = sampled()
    monkeypatch.setattr("dimo_core.method.logits.ELEMENTS", 5 * teacher.tokens.columns)
    assert torch.equal(whole, sampled())


def test_every_order_is_as_likely_in_random_order() -> None:
    space = TokenSpace(length=3, codes=4, mask_id=4)
    orders = RandomOrderSampler().order(space, Draws(seed=0, total=6000))
    counts = (orders * torch.tensor([9, 3, 1])).sum(1).unique(return_counts=True)[1]
    torch.testing.assert_close(counts / 6000, torch.full((6,), 1 / 6), atol=0.02, rtol=0)


@pytest.mark.parametrize("schedule", ["linear", "square", "cosine", "arccos"])
@pytest.mark.parametrize("delta", [0.0, 0.01])
def test_mask_ratios_fall_from_one_to_zero(schedule: Any, delta: float) -> None:
    for steps in range(1, 40):
        grid = torch.tensor(ratios(steps, schedule, delta))
        assert (1.0, 0.0, steps + 1) == (float(grid[0]), float(grid[-1]), len(grid))
        assert bool((grid.diff() < 0).all())
    assert delta == 0 or pytest.approx(delta) == float(grid[-2])


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (ThetaTrapezoidalSampler, {"theta": 0.0}, "'theta' must be > 0"),
        (ThetaTrapezoidalSampler, {"theta": 1.0}, "'theta' must be < 1"),
        (ThetaTrapezoidalSampler, {"delta": 1.0}, "'delta' must be < 1"),
        (TauLeapingSampler, {"delta": -0.1}, "'delta' must be >= 0"),
        (AncestralSampler, {"temperature": 0.0}, "'temperature' must be > 0"),
        (RandomOrderSampler, {"temperature": -1.0}, "'temperature' must be > 0"),
    ],
)
def test_bad_options_are_refused(cls: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls(**options)


@pytest.mark.parametrize("name", ["random-order", "halton", "ancestral", "tau-leaping", "theta-trapezoidal"])
def test_the_sampler_is_found_by_name(name: str) -> None:
    cls = Registry.discover().load("sampler", name)
    assert cls in {type(sampler) for sampler in SAMPLERS}
