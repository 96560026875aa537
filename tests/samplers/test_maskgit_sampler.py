"""The MaskGIT sampler: golden counts and trajectories, and completeness at every step count."""

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor, nn

from dimo_core.backbone import Backbone, Rows
from dimo_core.draws import Draws
from dimo_core.guidance import Constant, Ramp
from dimo_core.teacher import Teacher
from dimo_core.tokens import Tokens, TokenSpace
from dimo_maskgit.teacher import MaskGit
from dimo_samplers.maskgit import MaskGitSampler, tokens_per_step

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "schedules.json").read_text())
COUNTS = GOLDEN["sampler_tokens_per_step"]["256"]
SCHEDULES = ("root", "linear", "square", "cosine", "arccos")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_shares_equal_the_golden_counts(schedule: Any) -> None:
    for steps, counts in COUNTS[schedule].items():
        assert counts == tokens_per_step(256, int(steps), schedule, "share")


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("counts", ["share", "cumulative"])
@pytest.mark.parametrize("length", [64, pytest.param(256, marks=pytest.mark.slow)])
def test_counts_are_positive_and_add_up_at_every_step_count(schedule: Any, counts: Any, length: int) -> None:
    for steps in range(1, 301):
        each = tokens_per_step(length, steps, schedule, counts)
        assert length == sum(each), f"{steps} steps"
        assert min(each) >= 1, f"{steps} steps"
        assert len(each) <= min(steps, length), f"{steps} steps"


@given(
    length=st.integers(1, 1100),
    steps=st.integers(1, 1200),
    schedule=st.sampled_from(SCHEDULES),
    counts=st.sampled_from(["share", "cumulative"]),
)
@settings(deadline=None)
def test_any_length_is_decided_in_any_number_of_steps(
    length: int, steps: int, schedule: Any, counts: Any
) -> None:
    each = tokens_per_step(length, steps, schedule, counts)
    assert (length, True) == (sum(each), min(each) >= 1)
    assert len(each) <= min(steps, length)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("counts", ["share", "cumulative"])
@pytest.mark.parametrize(
    "steps",
    [
        1,
        2,
        pytest.param(3, marks=pytest.mark.slow),
        64,
        pytest.param(98, marks=pytest.mark.slow),
        pytest.param(100, marks=pytest.mark.slow),
        256,
        pytest.param(300, marks=pytest.mark.slow),
    ],
)
def test_passes_are_counted_as_made_and_sampling_stops_when_nothing_is_masked(
    tiny_teacher: Any, schedule: Any, counts: Any, steps: int
) -> None:
    """64 tokens; v1.0 itself fails at one step, and from 32 on. The ramp's first step takes a single pass."""
    space = TokenSpace(length=64, codes=5, mask_id=5)
    teacher = type("Long", (type(tiny_teacher),), {"tokens": space})()
    network, seen = teacher.network(), []
    network.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))
    sampled = MaskGitSampler(schedule=schedule, counts=counts).sample(
        teacher,
        network,
        torch.tensor([0, 1]),
        steps=steps,
        guidance=Ramp(scale=2.0),
        draws=Draws(seed=0, total=2),
        keep_trajectory=True,
    )
    assert sum(seen) == 2 * sampled.passes
    assert sampled.passes == 2 * len(seen) - (steps > 1)
    assert len(seen) == len(sampled.trajectory) <= min(steps, 64)
    assert bool((sampled.tokens < 5).all())
    masked = [int((x == 5).sum()) for x in sampled.trajectory]
    assert [0] == masked[-1:] == [left for left in masked if left == 0]


def test_cumulative_counts_leave_the_schedules_share_masked() -> None:
    """Di4C's counts at four steps of arccos (differences of round(256 arccos(k / 4) 2 / pi))."""
    assert [41, 44, 53, 118] == tokens_per_step(256, 4, "arccos", "cumulative")


@pytest.mark.parametrize("counts", ["share", "cumulative"])
def test_one_step_decides_everything(counts: Any) -> None:
    assert [16] == tokens_per_step(16, 1, "cosine", counts)


class Scripted(Backbone):
    """Gives the written-down logits of each step, and records what it was shown."""

    def __init__(self, probs: Tensor, columns: int) -> None:
        super().__init__()
        self.logits_of_step, self.columns = nn.Buffer(probs.double().log()), columns
        self.shown: list[Tokens] = []
        self.batches: list[int] = []

    def embed(self, x: Tokens | Float[Tensor, "B L V"]) -> Float[Tensor, "B L E"]:
        raise AssertionError("not used")

    def forward(
        self, x: Tokens | Float[Tensor, "B L E"], c: Tensor, *, mask_ratio: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L D"]:
        z = self.logits_of_step[len(self.shown)]
        self.shown.append(x[: len(z)])
        self.batches.append(len(x) // len(z))
        return z.repeat(len(x) // len(z), 1, 1)

    def head(self, hidden: Float[Tensor, "... D"], rows: Rows | None = None) -> Float[Tensor, "... V"]:
        return hidden if rows is None else hidden.flatten(0, 1)[rows]


@attrs.frozen(kw_only=True)
class Replay(Draws):
    """The drawn tokens and Gumbel numbers of a golden run, by step."""

    golden: dict[str, Tensor]
    probs: Tensor

    def _step(self) -> int:
        return int(self.phase.rpartition("/")[2])

    def uniform(self, stream: str, *shape: int) -> Tensor:
        assert stream == "drawn"
        p, drawn = self.probs[self._step()].double(), self.golden["drawn_tokens"][self._step()].flatten(1)
        cdf = p.cumsum(-1).gather(-1, drawn[..., None]).squeeze(-1)
        return cdf - p.gather(-1, drawn[..., None]).squeeze(-1) / 2  # the middle of the drawn token's share

    def gumbel(self, stream: str, *shape: int) -> Tensor:
        assert stream == "gumbel"
        return self.golden["gumbel"][self._step()]


@pytest.mark.parametrize(
    ("run", "options", "w"),
    [
        ("arccos4", {"schedule": "arccos", "gumbel": 4.5}, 3.0),
        ("cosine6_temp", {"schedule": "cosine", "gumbel": 7.0}, 2.0),
        ("linear5_nonoise", {"schedule": "linear", "gumbel": 0.0}, 0.0),
    ],
)
def test_trajectories_equal_the_golden_runs(
    tiny_teacher: Teacher, golden: Any, run: str, options: dict[str, Any], w: float
) -> None:
    """The golden probabilities stand in for the network; guidance is the ramp 1 + w i / (n - 1)."""
    values = {
        k.removeprefix(f"{run}."): v for k, v in golden("sampler_trajectory").items() if k.startswith(run)
    }
    probs, steps = values["probs"], len(values["tokens_per_step"])
    space = TokenSpace(length=16, codes=16, mask_id=16, scores_mask=True)
    teacher = type("Golden", (type(tiny_teacher),), {"tokens": space})()
    network = Scripted(probs, 17)
    sampled = MaskGitSampler(counts="share", **options).sample(
        teacher,
        network,
        values["labels"],
        steps=steps,
        guidance=Ramp(scale=1 + w),
        draws=Replay(seed=0, total=3, phase="x", golden=values, probs=probs),
        keep_trajectory=True,
    )
    assert values["tokens_per_step"].tolist() == tokens_per_step(16, steps, options["schedule"], "share")
    assert torch.equal(values["codes_before_step"].flatten(2), torch.stack(network.shown))
    assert torch.equal(values["final_codes"].flatten(1), sampled.tokens.clamp(0, 15))
    assert torch.equal(sampled.tokens, sampled.trajectory[-1])
    assert values["model_batches"].tolist() == network.batches
    assert values["model_batches"].sum() == sampled.passes


@pytest.mark.parametrize("order", ["confidence", "random"])
@pytest.mark.parametrize("counts", ["share", "cumulative"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 9])
def test_no_mask_is_left_and_decided_tokens_stay(
    tiny_teacher: Any, order: Any, counts: Any, steps: int
) -> None:
    sampled = MaskGitSampler(order=order, counts=counts).sample(
        tiny_teacher,
        tiny_teacher.network(),
        torch.arange(50) % 2,
        steps=steps,
        guidance=Constant(),
        draws=Draws(seed=0, total=50),
        keep_trajectory=True,
    )
    assert ((sampled.tokens >= 0) & (sampled.tokens < 5)).all()
    before = torch.full((50, 4), 5)
    for x, count in zip(sampled.trajectory, tokens_per_step(4, steps, "arccos", counts), strict=True):
        assert torch.equal(before[before != 5], x[before != 5])
        assert [count] * 50 == ((before == 5) & (x != 5)).sum(1).tolist()
        before = x
    assert len(sampled.trajectory) == sampled.passes <= steps


def test_temperature_divides_the_logits(tiny_teacher: Any) -> None:
    options = {"steps": 2, "guidance": Constant(), "draws": Draws(seed=0, total=4)}
    c, network = torch.zeros(4, dtype=torch.long), tiny_teacher.network()
    cold = MaskGitSampler(temperature=1e-4, order="random").sample(tiny_teacher, network, c, **options)
    first = network.logits(torch.full((4, 4), 5), c, mask_ratio=torch.ones(4)).argmax(-1)
    decided = MaskGitSampler(temperature=1e-4, order="random").sample(
        tiny_teacher, network, c, **options, keep_trajectory=True
    )
    x = decided.trajectory[0]
    assert torch.equal(first[x != 5], x[x != 5])
    assert torch.equal(cold.tokens, decided.tokens)


def test_random_order_decides_every_site_equally_often(tiny_teacher: Any) -> None:
    sampled = MaskGitSampler(order="random", schedule="linear").sample(
        tiny_teacher,
        tiny_teacher.network(),
        torch.zeros(4000, dtype=torch.long),
        steps=4,
        guidance=Constant(),
        draws=Draws(seed=0, total=4000),
        keep_trajectory=True,
    )
    first = (sampled.trajectory[0] != 5).float().mean(0)
    torch.testing.assert_close(first, torch.full((4,), 0.25), atol=0.03, rtol=0)


def test_logits_in_parts_draw_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = MaskGit()
    network, c = teacher.network(), torch.tensor([0, 1, 1])

    def sampled() -> Tensor:
        options = {"steps": 4, "guidance": Constant(scale=2.0), "draws": Draws(seed=3, total=3)}
        return MaskGitSampler().sample(teacher, network, c, **options).tokens

    whole = sampled()
    monkeypatch.setattr("dimo_core.method.logits.ELEMENTS", 5 * teacher.tokens.columns)
    assert torch.equal(whole, sampled())


@pytest.mark.parametrize("wrong", [{"order": "confident"}, {"schedule": "cosin"}, {"counts": "shares"}])
def test_a_misspelt_option_is_refused_and_not_taken_for_another(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="must be in"):
        MaskGitSampler(**wrong)  # type: ignore[arg-type]
