"""What must hold for any p and q: zero sums, zero at p = q, bounds, limits, dtypes, exact zeros."""

import math
from collections.abc import Callable

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from dimo_core.divergence import Divergence
from dimo_divergences import (
    FKL,
    GJS,
    JS,
    RKL,
    TV,
    Alpha,
    Hellinger,
    Jeffrey,
    Neyman,
    Pearson,
    SkewFKL,
    SkewRKL,
    Triangular,
)

BOUNDS: list[tuple[Divergence, float]] = [
    (JS(), math.log(2)),
    (GJS(beta=0.2), -0.2 * math.log(0.2) - 0.8 * math.log(0.8)),
    (SkewFKL(), math.log(10)),
    (SkewRKL(alpha=0.25), math.log(4)),
    (Alpha(alpha=0.3), 1 / (0.3 * 0.7)),
    (TV(), 1.0),
    (Hellinger(), 2.0),
    (Triangular(), 2.0),
]
BOUNDED = [divergence for divergence, _ in BOUNDS]
CLIPPED = [Pearson(), Neyman(), Alpha(alpha=2.3), Alpha(alpha=-0.7)]
EVERY = [FKL(), RKL(), Jeffrey(), Jeffrey(beta=-0.2), *BOUNDED, *CLIPPED]


@st.composite
def pairs(draw: st.DrawFn, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Log-probabilities of p and q: up to 4 rows of up to 9 codes, logits within +-8."""
    rows, codes = draw(st.integers(1, 4)), draw(st.integers(2, 9))
    size = 2 * rows * codes
    numbers = draw(st.lists(st.floats(-8, 8, width=32), min_size=size, max_size=size))
    log_p, log_q = torch.tensor(numbers, dtype=dtype).view(2, rows, codes).log_softmax(-1)
    return log_p, log_q


def shaped(divergence: Divergence) -> str:
    return repr(divergence)


@pytest.mark.parametrize("divergence", EVERY, ids=shaped)
@settings(max_examples=25, deadline=None)
@given(pair=pairs())
def test_rows_sum_to_zero_and_values_are_not_negative(divergence: Divergence, pair: tuple[Tensor, Tensor]):
    grad_z = divergence.grad(*pair)
    size = grad_z.abs().amax(-1).clamp(min=1)
    assert (grad_z.sum(-1).abs() / size).max() < 1e-13
    if divergence != Jeffrey(beta=-0.2):
        value = divergence.value(*pair)
        assert (value >= -1e-13 * value.abs().clamp(min=1)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("divergence", EVERY, ids=shaped)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_value_and_gradient_vanish_exactly_where_p_equals_q(
    divergence: Divergence, dtype: torch.dtype, data: st.DataObject
):
    log_p, _ = data.draw(pairs(dtype))
    zeros = torch.zeros_like(log_p)
    torch.testing.assert_close(divergence.grad(log_p, log_p.clone()), zeros, rtol=0, atol=0)
    torch.testing.assert_close(divergence.value(log_p, log_p.clone()), zeros.sum(-1), rtol=0, atol=0)


@pytest.mark.parametrize(("divergence", "bound"), BOUNDS, ids=repr)
def test_a_bound_is_reached_by_disjoint_p_and_q(divergence: Divergence, bound: float):
    log_p = torch.tensor([[0.25, 0.75, 0.0, 0.0]]).log()
    log_q = torch.tensor([[0.0, 0.0, 0.5, 0.5]]).log()
    torch.testing.assert_close(divergence.value(log_p, log_q), torch.tensor([bound]))


@pytest.mark.parametrize(("divergence", "bound"), BOUNDS, ids=repr)
@settings(max_examples=25, deadline=None)
@given(pair=pairs())
def test_values_stay_below_their_bound(divergence: Divergence, bound: float, pair: tuple[Tensor, Tensor]):
    assert (divergence.value(*pair) <= bound * (1 + 1e-12)).all()


@settings(max_examples=100, deadline=None)
@given(pair=pairs())
def test_gradient_bounds_of_the_documentation(pair: tuple[Tensor, Tensor]):
    assert FKL().grad(*pair).abs().max() <= 1
    assert TV().grad(*pair).abs().max() <= 0.25 + 1e-12


def assert_same(one: Divergence, other: Divergence, factor: float = 1.0, rtol: float = 1e-10) -> None:
    g = torch.Generator().manual_seed(1)
    log_p, log_q = torch.randn(2, 20, 9, generator=g, dtype=torch.float64).log_softmax(-1)
    for method in ("value", "grad"):
        expected = factor * getattr(other, method)(log_p, log_q)
        scale = float(expected.abs().max())
        torch.testing.assert_close(getattr(one, method)(log_p, log_q), expected, rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize(
    ("one", "other", "factor"),
    [
        (Jeffrey(beta=0), FKL(), 1.0),
        (Jeffrey(beta=1), RKL(), 1.0),
        (Alpha(alpha=0), RKL(), 1.0),
        (Alpha(alpha=1), FKL(), 1.0),
        (Alpha(alpha=0.5), Hellinger(), 2.0),
        (Alpha(alpha=2), Pearson(), 0.5),
        (Alpha(alpha=-1), Neyman(), 0.5),
        (SkewFKL(alpha=0), FKL(), 1.0),
        (SkewRKL(alpha=0), RKL(), 1.0),
        (GJS(beta=0.5), JS(), 1.0),
    ],
    ids=repr,
)
def test_members_of_a_family_equal_the_named_divergences(one: Divergence, other: Divergence, factor: float):
    assert_same(one, other, factor)


@pytest.mark.parametrize(
    ("one", "other", "factor"),
    [
        (Alpha(alpha=1e-7), RKL(), 1.0),
        (Alpha(alpha=-1e-7), RKL(), 1.0),
        (Alpha(alpha=1 - 1e-7), FKL(), 1.0),
        (Alpha(alpha=1 + 1e-7), FKL(), 1.0),
        (SkewFKL(alpha=1e-7), FKL(), 1.0),
        (SkewRKL(alpha=1e-7), RKL(), 1.0),
        (GJS(beta=1e-7), FKL(), 1e-7),
        (GJS(beta=1 - 1e-7), RKL(), 1e-7),
    ],
    ids=repr,
)
def test_families_approach_their_limits(one: Divergence, other: Divergence, factor: float):
    assert_same(one, other, factor, rtol=3e-5)


@pytest.mark.parametrize("alpha", [1e-5, 1 - 1e-5])
def test_alpha_near_its_limits_is_exact_in_fp32(alpha: float):
    g = torch.Generator().manual_seed(1)
    log_p, log_q = torch.randn(2, 20, 9, generator=g).log_softmax(-1)
    alpha = torch.tensor(alpha).item()
    expected = Alpha(alpha=alpha).value(log_p.double(), log_q.double())
    torch.testing.assert_close(
        Alpha(alpha=alpha).value(log_p, log_q).double(), expected, rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("divergence", EVERY, ids=shaped)
def test_results_have_the_dtype_and_shape_of_the_inputs(divergence: Divergence, dtype: torch.dtype):
    log_p, log_q = torch.randn(2, 3, 4, 5, dtype=dtype).log_softmax(-1)
    assert (divergence.value(log_p, log_q).dtype, divergence.value(log_p, log_q).shape) == (dtype, (3, 4))
    for result in (
        divergence.potential(log_p, log_q),
        divergence.grad(log_p, log_q),
        divergence.student_grad(log_p, log_q, log_p),
    ):
        assert (result.dtype, result.shape) == (dtype, (3, 4, 5))


@pytest.mark.parametrize("divergence", [FKL(), Jeffrey(beta=0), *BOUNDED], ids=shaped)
def test_exact_zeros_never_give_nan(divergence: Divergence):
    log_p = torch.tensor([[0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.1, 0.9, 0.0]]).log()
    log_q = torch.tensor([[0.5, 0.0, 0.5, 0.0], [0.0, 1.0, 0.0, 0.0], [0.2, 0.2, 0.6, 0.0]]).log()
    grad_z = divergence.grad(log_p, log_q)
    assert grad_z.isfinite().all()
    assert not divergence.value(log_p, log_q).isnan().any()
    tiny_p, tiny_q = (x.double().clamp(min=-700).log_softmax(-1) for x in (log_p, log_q))
    torch.testing.assert_close(grad_z.double(), divergence.grad(tiny_p, tiny_q), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("divergence", EVERY, ids=shaped)
def test_a_code_that_both_exclude_changes_nothing(divergence: Divergence):
    log_p, log_q = torch.randn(2, 6, 5).log_softmax(-1)
    nothing = torch.full((6, 1), -math.inf)
    wide_p, wide_q = torch.cat([log_p, nothing], -1), torch.cat([log_q, nothing], -1)
    torch.testing.assert_close(divergence.value(wide_p, wide_q), divergence.value(log_p, log_q))
    for narrow, wide in (
        (divergence.grad(log_p, log_q), divergence.grad(wide_p, wide_q)),
        (
            divergence.student_grad(log_p, log_q, log_p),
            divergence.student_grad(wide_p, wide_q, wide_p),
        ),
    ):
        torch.testing.assert_close(wide, torch.cat([narrow, torch.zeros(6, 1)], -1))


@pytest.mark.parametrize(
    ("divergence", "pull"),
    [
        (FKL(), lambda q: 1.0),
        (Hellinger(), lambda q: q**0.5),
        (Alpha(alpha=0.3), lambda q: q**0.7 / 0.3),
        (SkewFKL(alpha=0.25), lambda q: q * 0.75 / 0.25),
        (Triangular(), lambda q: 4 * q),
        (JS(), lambda q: 0.5 * q * math.log(1 / q)),
    ],
    ids=lambda c: repr(c).partition(" at 0x")[0],
)
def test_the_pull_towards_a_code_that_the_auxiliary_hardly_knows(
    divergence: Divergence, pull: Callable[[float], float]
):
    q = 1e-40
    log_p = torch.tensor([[1.0, 0.0]], dtype=torch.float64).log()
    log_q = torch.tensor([[q, 1 - q]], dtype=torch.float64).log()
    assert -pull(q) == pytest.approx(divergence.grad(log_p, log_q)[0, 0].item(), rel=0.02, abs=0)


def test_an_infinite_reverse_divergence_is_not_hidden():
    log_p, log_q = torch.tensor([[1.0, 0.0]]).log(), torch.tensor([[0.5, 0.5]]).log()
    assert RKL().value(log_p, log_q).isinf().all()
    assert not RKL().grad(log_p, log_q).isfinite().all()


@pytest.mark.parametrize("divergence", CLIPPED, ids=shaped)
@pytest.mark.parametrize("scale", [100.0, 1e4])
def test_clipped_divergences_are_finite_and_log_the_clipped_share(divergence: Divergence, scale: float):
    log_p, log_q = (torch.randn(2, 50, 9) * scale).log_softmax(-1)
    assert divergence.value(log_p, log_q).isfinite().all()
    for log_w in (log_q, log_p, log_p.roll(1, 0)):
        assert divergence.student_grad(log_p, log_q, log_w).isfinite().all()
    assert 0.5 < divergence.diagnostics(log_p, log_q)["clipped_share"].item() < 1
    assert divergence.diagnostics(log_p, log_p)["clipped_share"].item() == 0


def test_the_clipped_share_counts_entries_beyond_the_limit():
    log_p, log_q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]]).log()
    ratios = (log_p - log_q).abs()  # 0.59 and 1.61
    assert Pearson(log_ratio_max=1.0).diagnostics(log_p, log_q)["clipped_share"].item() == 0.5
    assert Pearson(log_ratio_max=float(ratios.min()) / 2).diagnostics(log_p, log_q)["clipped_share"] == 1
    assert JS().diagnostics(log_p, log_q) == {}
    assert Alpha(alpha=0.5).diagnostics(log_p, log_q) == {}


def test_a_clipped_code_keeps_pulling():
    log_p, log_q = torch.tensor([[-1e-9, -30.0]]), torch.tensor([[-60.0, 0.0]])
    grad_z = Pearson(log_ratio_max=5.0).grad(log_p, log_q)
    torch.testing.assert_close(grad_z, torch.tensor([[-1.0, 1.0]]) * math.exp(5))


def test_a_looser_limit_changes_nothing_where_nothing_is_clipped():
    log_p, log_q = torch.randn(2, 20, 9, dtype=torch.float64).log_softmax(-1)
    for one, other in ((Pearson(log_ratio_max=12), Pearson()), (Neyman(log_ratio_max=12), Neyman())):
        torch.testing.assert_close(one.grad(log_p, log_q), other.grad(log_p, log_q))
    tight = Pearson(log_ratio_max=0.1)
    assert (tight.value(log_p, log_q) < Pearson().value(log_p, log_q)).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GJS(beta=0.0), "beta"),
        (lambda: GJS(beta=1.0), "beta"),
        (lambda: SkewFKL(alpha=1.0), "alpha"),
        (lambda: SkewRKL(alpha=-0.1), "alpha"),
        (lambda: Jeffrey(beta=math.nan), "'beta' must be a finite number"),
        (lambda: Alpha(alpha=math.inf), "'alpha' must be a finite number"),
        (lambda: Alpha(alpha=9.0), "'log_ratio_max' must be at most 8.89 for alpha 9"),
        (lambda: Pearson(log_ratio_max=41.0), "'log_ratio_max' must be at most 40 for alpha 2"),
        (lambda: Neyman(log_ratio_max=0.0), "log_ratio_max"),
    ],
)
def test_impossible_options_are_refused(build: object, message: str):
    assert callable(build)
    with pytest.raises(ValueError, match=message):
        build()
