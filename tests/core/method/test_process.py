"""x_init, q_{t|0} and r(t), against golden values and by their definitions."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dimo_core.draws import Draws
from dimo_core.method import process
from dimo_core.method.process import (
    apply_mask,
    draw_mask,
    draw_remask,
    initial_tokens,
    mask_ratio,
    masked_count,
    perturb,
)
from dimo_core.tokens import TokenSpace

GOLDEN = json.loads((Path(__file__).parents[2] / "data" / "schedules.json").read_text())
SCHEDULES = ("linear", "square", "cosine", "arccos")
RISING = ("linear", "square")
"""In the source r = u and r = u^2 rise with its u, the others fall: there t = 1 - u."""

space = TokenSpace(length=64, codes=10, mask_id=10)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("length", [int(length) for length in GOLDEN["training_remask"]])
def test_ratio_and_count_equal_the_golden_values(schedule: Any, length: int) -> None:
    golden = GOLDEN["training_remask"][str(length)][schedule]
    u = torch.tensor(golden["r"])
    ratio = mask_ratio(u if schedule in RISING else 1 - u, schedule)
    torch.testing.assert_close(ratio, torch.tensor(golden["ratio"]), atol=2e-7, rtol=0)
    assert golden["masked"] == masked_count(ratio, length).tolist()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_ratio_rises_from_nothing_to_all(schedule: Any) -> None:
    r = mask_ratio(torch.linspace(0, 1, 101, dtype=torch.float64), schedule)
    assert 0 == pytest.approx(r[0].item(), abs=1e-15)
    assert 1 == pytest.approx(r[-1].item())
    assert (r.diff() > 0).all()


@pytest.mark.parametrize("length", [int(length) for length in GOLDEN["initial_masked_count"]])
def test_x_init_has_the_golden_count_of_masks(length: int) -> None:
    """The reference leaves one mask at r_init = 0; here there is none then."""
    for ratio, count in GOLDEN["initial_masked_count"][str(length)].items():
        here = TokenSpace(length=length, codes=10, mask_id=10)
        x = initial_tokens(here, float(ratio), Draws(seed=0, total=5))
        expected = 0 if float(ratio) == 0 else count
        assert [expected] * 5 == (x == 10).sum(1).tolist()
        assert (x[x != 10] < 10).all()


def test_the_codes_of_x_init_are_uniform() -> None:
    x = initial_tokens(space, 0.25, Draws(seed=0, total=4000))
    shares = x[x < 10].bincount(minlength=10) / (x < 10).sum()
    torch.testing.assert_close(shares, torch.full((10,), 0.1), atol=0.005, rtol=0)
    torch.testing.assert_close((x == 10).float().mean(0), torch.full((64,), 0.25), atol=0.04, rtol=0)


@given(r=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=6), length=st.integers(1, 300))
def test_a_masked_count_is_the_rounded_share_and_never_zero(r: list[float], length: int) -> None:
    ratio = torch.tensor(r, dtype=torch.float64)
    assert [max(1, round(x * length)) for x in ratio.tolist()] == masked_count(ratio, length).tolist()


def test_exact_masking_hides_exactly_the_count() -> None:
    ratio = torch.linspace(0, 1, 50)
    masked = draw_mask(ratio, 64, Draws(seed=0, total=50), "exact")
    assert masked_count(ratio, 64).tolist() == masked.sum(1).tolist()


@given(seed=st.integers(0, 2**30), length=st.integers(1, 6))
def test_bernoulli_masking_never_masks_nothing(seed: int, length: int) -> None:
    masked = draw_mask(torch.zeros(20), length, Draws(seed=seed, total=20), "bernoulli")
    assert [1] * 20 == masked.sum(1).tolist()


def test_bernoulli_masking_hides_each_site_with_its_probability() -> None:
    ratio = torch.tensor([0.2, 0.7]).repeat_interleave(4000)
    masked = draw_mask(ratio, 64, Draws(seed=1, total=8000), "bernoulli")
    for half, r in ((masked[:4000], 0.2), (masked[4000:], 0.7)):
        torch.testing.assert_close(half.float().mean(0), torch.full((64,), r), atol=0.04, rtol=0)
        assert r * (1 - r) * 64 == pytest.approx(half.sum(1).float().var().item(), rel=0.1)


def test_bernoulli_masking_hides_everything_at_ratio_one() -> None:
    assert draw_mask(torch.ones(30), 64, Draws(seed=0, total=30), "bernoulli").all()


def test_masking_changes_masked_sites_only() -> None:
    x = torch.arange(8).view(2, 4)
    masked = torch.tensor([[True, False, False, True], [False, False, True, False]])
    expected = torch.tensor([[10, 1, 2, 10], [4, 5, 10, 7]])
    assert torch.equal(expected, apply_mask(x, masked, space))
    assert torch.equal(torch.arange(8).view(2, 4), x)


def test_no_noise_leaves_embeddings_bit_identical() -> None:
    e, eps = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0)).unbind()
    assert torch.equal(e, perturb(e, 0.0, eps))


@pytest.mark.parametrize("sigma", [0.1, 0.3, 1.0])
def test_noise_keeps_the_variance(sigma: float) -> None:
    e, eps = torch.randn(2, 100, 40, 50, generator=torch.Generator().manual_seed(0)).unbind()
    noisy = perturb(e, sigma, eps)
    assert 1 == pytest.approx(noisy.var().item(), rel=0.02)
    assert sigma == pytest.approx((noisy * eps).mean().item(), abs=0.01)


@pytest.mark.parametrize("masking", ["exact", "bernoulli"])
@given(
    total=st.integers(1, 200),
    cuts=st.lists(st.integers(1, 199), max_size=4),
    schedule=st.sampled_from(SCHEDULES),
    bounds=st.sampled_from([(0.0, 1.0), (0.3, 0.4)]),
)
def test_the_total_of_the_global_batch_is_the_sum_of_any_parts(
    masking: Any, total: int, cuts: list[int], schedule: Any, bounds: tuple[float, float]
) -> None:
    draws = Draws(seed=3, step=1, phase="p", total=total)
    ends = sorted({0, total, *(cut for cut in cuts if cut < total)})
    parts = [draws.slice(a, b - a) for a, b in itertools.pairwise(ends)]
    counted = sum(int(draw_remask(9, schedule, masking, p, bounds=bounds).counts.sum()) for p in parts)
    for part in parts:
        assert draw_remask(9, schedule, masking, part, bounds=bounds).total == counted


@pytest.mark.parametrize(("masking", "rows"), [("exact", [2, 2]), ("bernoulli", [4] * 256)])
def test_micro_batches_draw_the_masks_of_the_global_batch_once_and_block_by_block(
    masking: Any, rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(
        process, "draw_mask", lambda r, *given, **named: drawn.append(len(r)) or draw_mask(r, *given, **named)
    )
    draws = Draws(seed=0, total=1024)
    for start in (7, 9):
        draw_remask(2**16, "linear", masking, draws.slice(start, 2))
    assert drawn == rows
