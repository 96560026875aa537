"""Metrics in a feature space against plain implementations of their formulas."""

import contextlib
import io

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loguru import logger
from prdc import compute_prdc
from torch import Tensor

from dimo_core.errors import NumericalError, UsageError
from dimo_core.metric import Metric, Samples
from dimo_core.teacher import Teacher
from dimo_metrics import density
from dimo_metrics.density import DensityCoverage, density_and_coverage
from dimo_metrics.extractor import NAME, PackedFeatures, register_extractor
from dimo_metrics.features import feature_pair
from dimo_metrics.fidelity import Fidelity
from dimo_metrics.library import load_torch_fidelity

METRICS = [Fidelity(kid_subsets=2), DensityCoverage()]


class NoTeacher(Teacher):
    """These metrics ask nothing of the teacher."""


NoTeacher.__abstractmethods__ = frozenset()


def samples(count: int, width: int, *, seed: int, shift: float = 0.0, classes: int = 0) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=torch.Generator().manual_seed(99)) / width**0.5
    features = torch.randn(count, width, generator=generator) @ mixing + shift
    logits = torch.randn(count, classes, generator=generator) * 2 if classes else None
    return Samples(conditions=(0,) * count, features=features, logits=logits)


def of(given_samples: Samples) -> Tensor:
    assert given_samples.features is not None
    return given_samples.features.double()


def plain_fid(a: Tensor, b: Tensor) -> float:
    """|mu_a - mu_b|^2 + tr(A) + tr(B) - 2 tr((A^1/2 B A^1/2)^1/2)."""
    cov_a, cov_b = a.T.cov(), b.T.cov()
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


def plain_kid(a: Tensor, b: Tensor) -> float:
    """Unbiased MMD^2 with the kernel (x.y / F + 1)^3 of two sets of one size."""

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    n = len(a)
    within = sum(kernel(x, x).sum() - kernel(x, x).diagonal().sum() for x in (a, b)) / (n * (n - 1))
    return float(within - 2 * kernel(a, b).mean())


def plain_precision(candidates: Tensor, manifold: Tensor, k: int) -> float:
    """Share of the candidates within reach of the k-th neighbour of any point of the manifold."""
    hits = 0
    radii = [sorted((p - q).norm().item() for q in manifold)[k] for p in manifold]
    for candidate in candidates:
        hits += any((candidate - p).norm().item() <= r for p, r in zip(manifold, radii, strict=True))
    return hits / len(candidates)


def plain_density_and_coverage(real: Tensor, fake: Tensor, k: int) -> tuple[float, float]:
    """The definitions of Naeem et al., point by point."""
    inside, covered = 0, 0
    for p in real:
        radius = sorted((p - q).norm().item() for q in real)[k]
        held = sum((p - f).norm().item() < radius for f in fake)
        inside += held
        covered += held > 0
    return inside / (k * len(fake)), covered / len(real)


def prdc_of(real: Tensor, fake: Tensor, k: int) -> dict[str, float]:
    """Precision, recall, density and coverage by the package of the authors of the last two."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints the counts
        return {name: float(v) for name, v in compute_prdc(real.numpy(), fake.numpy(), k).items()}


def plain_score(logits: Tensor) -> float:
    """exp of the mean KL divergence of the predictions from their mean."""
    p = logits.double().softmax(1)
    return float((p * (p.log() - p.mean(0).log())).sum(1).mean().exp())


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_fid_is_that_of_the_formula(shift: float) -> None:
    a, b = samples(300, 6, seed=0, shift=shift), samples(200, 6, seed=1)
    fid = Fidelity(kid_subsets=1).compute(a, b, NoTeacher())["fid"]
    assert plain_fid(of(a), of(b)) == pytest.approx(fid, rel=1e-9)


def test_fid_of_a_set_with_itself_is_zero() -> None:
    a = samples(100, 5, seed=0)
    assert 0 == pytest.approx(Fidelity(kid_subsets=1).compute(a, a, NoTeacher())["fid"], abs=1e-9)


def test_kid_is_that_of_the_formula_when_a_subset_is_everything() -> None:
    a, b = samples(120, 6, seed=0, shift=0.3), samples(120, 6, seed=1)
    kid = Fidelity(kid_subsets=3).compute(a, b, NoTeacher())["kid"]
    assert plain_kid(of(a), of(b)) == pytest.approx(kid, rel=1e-9)


def test_kid_is_about_zero_for_two_draws_of_one_distribution() -> None:
    a, b = samples(400, 8, seed=0), samples(400, 8, seed=1)
    near = Fidelity(kid_subsets=3).compute(a, b, NoTeacher())["kid"]
    far = Fidelity(kid_subsets=3).compute(samples(400, 8, seed=0, shift=1.0), b, NoTeacher())["kid"]
    assert abs(near) < 0.02 * far


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_are_those_of_the_definition(k: int) -> None:
    a, b = samples(60, 4, seed=0, shift=0.8), samples(45, 4, seed=1)
    numbers = Fidelity(kid_subsets=1, neighbours=k).compute(a, b, NoTeacher())
    assert plain_precision(of(a), of(b), k) == pytest.approx(numbers["precision"])
    assert plain_precision(of(b), of(a), k) == pytest.approx(numbers["recall"])
    assert 0 < numbers["precision"] < 1


def test_the_inception_score_is_that_of_the_formula() -> None:
    a = samples(50, 4, seed=0, classes=5)
    numbers = Fidelity(kid_subsets=1, isc_splits=1).compute(a, samples(50, 4, seed=1), NoTeacher())
    assert a.logits is not None
    assert plain_score(a.logits) == pytest.approx(numbers["is"], rel=1e-6)


def test_an_inception_score_of_few_samples_is_said_to_be_one_once(told: list[str]) -> None:
    a, b, metric = samples(9, 4, seed=0, classes=5), samples(50, 4, seed=1), Fidelity(kid_subsets=1)
    for _ in range(2):
        metric.compute(a, b, NoTeacher())
    assert [
        "the inception score of 9 samples in 10 parts comes out too small; give each part 100 at least\n"
    ] == told


def test_the_inception_score_is_left_out_without_logits() -> None:
    numbers = Fidelity(kid_subsets=1).compute(samples(50, 4, seed=0), samples(50, 4, seed=1), NoTeacher())
    assert {"fid", "kid", "precision", "recall"} == set(numbers)


def test_few_samples_give_numbers_and_no_nan() -> None:
    a, b = samples(6, 3, seed=0, classes=4), samples(6, 3, seed=1, classes=4)
    numbers = Fidelity().compute(a, b, NoTeacher()) | DensityCoverage().compute(a, b, NoTeacher())
    assert all(np.isfinite(list(numbers.values())))


def test_numbers_repeat_and_depend_on_nothing_cached() -> None:
    a, b, c = samples(80, 4, seed=0), samples(50, 4, seed=1), samples(80, 4, seed=2, shift=1.0)
    metric = Fidelity(kid_subsets=5, kid_subset_size=20)
    first = metric.compute(a, b, NoTeacher())
    assert first != metric.compute(c, b, NoTeacher())
    assert first == metric.compute(a, b, NoTeacher())


def test_the_extractor_is_registered_once_and_gives_the_features_back_bit_for_bit() -> None:
    torch_fidelity = load_torch_fidelity()
    assert NAME == register_extractor(torch_fidelity) == register_extractor(torch_fidelity)
    features, logits = torch.randn(5, 3), torch.randn(5, 2)
    packed = PackedFeatures(features, logits)
    extractor = torch_fidelity.registry.FEATURE_EXTRACTORS_REGISTRY[NAME](
        NAME, ["logits", "features"], dimo_width=3
    )
    back = extractor(torch.stack([packed[i] for i in range(len(packed))]))
    assert torch.equal(logits.double(), back[0])
    assert torch.equal(features.double(), back[1])


@settings(max_examples=25, deadline=None)
@given(
    k=st.integers(1, 5),
    width=st.integers(1, 4),
    shift=st.sampled_from([0.0, 0.5, 3.0]),
    seed=st.integers(0, 99),
)
def test_density_and_coverage_are_those_of_the_definition(
    k: int, width: int, shift: float, seed: int
) -> None:
    real, fake = of(samples(20, width, seed=seed)), of(samples(15, width, seed=seed + 1, shift=shift))
    expected = plain_density_and_coverage(real, fake, k)
    assert expected == pytest.approx(density_and_coverage(real, fake, k))


@settings(max_examples=50, deadline=None)
@given(
    k=st.integers(1, 4), counts=st.tuples(st.integers(6, 40), st.integers(6, 40)), seed=st.integers(0, 999)
)
def test_density_and_coverage_are_those_of_prdc_where_many_distances_are_equal(
    k: int, counts: tuple[int, int], seed: int
) -> None:
    # Integers: distances tie exactly, points coincide, and balls of radius 0 hold nothing.
    rng = np.random.default_rng(seed)
    real, fake = (torch.from_numpy(rng.integers(0, 4, (count, 2)).astype(float)) for count in counts)
    expected = prdc_of(real, fake, k)
    assert (expected["density"], expected["coverage"]) == pytest.approx(density_and_coverage(real, fake, k))


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
def test_precision_recall_density_and_coverage_are_those_of_prdc(shift: float) -> None:
    real, fake = samples(150, 6, seed=0), samples(120, 6, seed=1, shift=shift)
    expected = prdc_of(of(real), of(fake), 3)
    found = Fidelity(kid_subsets=1).compute(fake, real, NoTeacher())
    assert (expected["precision"], expected["recall"]) == pytest.approx((found["precision"], found["recall"]))
    assert (expected["density"], expected["coverage"]) == pytest.approx(
        density_and_coverage(of(real), of(fake), 3)
    )


def test_a_sample_on_the_rim_of_a_ball_lies_outside() -> None:
    real = torch.tensor([[0.0], [1.0], [3.0]])  # the radii to the nearest are 1, 1 and 2
    assert (0.0, 0.0) == density_and_coverage(real, torch.tensor([[-1.0]]), 1)
    assert (1.0, 1 / 3) == density_and_coverage(real, torch.tensor([[2.0]]), 1)


def test_blocks_of_distances_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = of(samples(90, 5, seed=0)), of(samples(70, 5, seed=1))
    expected = density_and_coverage(real, fake, 5)
    monkeypatch.setattr(density, "BLOCK_BYTES", 8 * 90 * 7)
    monkeypatch.setattr(density, "COLUMNS", 11)
    assert expected == density_and_coverage(real, fake, 5)


def test_coverage_sees_a_missing_mode_and_density_a_crowd() -> None:
    real = torch.cat([of(samples(100, 3, seed=0)), of(samples(100, 3, seed=1, shift=50.0))])
    one_mode = of(samples(200, 3, seed=2))
    density_, coverage = density_and_coverage(real, one_mode, 5)
    assert coverage <= 0.5
    assert density_ > 0.7


@pytest.mark.parametrize("metric", METRICS)
def test_every_number_says_which_direction_is_good(metric: Metric) -> None:
    numbers = metric.compute(samples(20, 3, seed=0, classes=3), samples(20, 3, seed=1), NoTeacher())
    assert set(metric.better) == set(numbers)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("given_samples", "reference", "message"),
    [
        (Samples(conditions=(0,)), samples(9, 2, seed=0), r"and these samples have none\.$"),
        (Samples(conditions=(0,)), Samples(conditions=(0,)), r"both have none\. The extractor is"),
        (Samples(conditions=(0,)), None, r"there is none\. Name data and split .* The extractor is"),
        (samples(9, 2, seed=0), None, r"there is none\. Name data and split in the evaluation plan\.$"),
        (samples(9, 2, seed=0), Samples(conditions=(0,)), r"and the reference has none\.$"),
        (samples(9, 2, seed=0), samples(9, 3, seed=0), "widths"),
        (samples(3, 2, seed=0), samples(9, 2, seed=0), "needs more than"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    metric: Metric, given_samples: Samples, reference: Samples | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        metric.compute(given_samples, reference, NoTeacher())


@pytest.mark.parametrize("metric", METRICS)
def test_features_that_are_not_finite_are_an_error(metric: Metric) -> None:
    a = samples(20, 3, seed=0)
    assert a.features is not None
    broken = attrs.evolve(a, features=a.features.index_fill(0, torch.tensor([4]), torch.nan))
    with pytest.raises(NumericalError, match="samples are not finite"):
        metric.compute(broken, a, NoTeacher())


@pytest.mark.parametrize(("count", "warnings"), [(8, 1), (9, 0)])
def test_fewer_samples_than_dimensions_are_warned_about(count: int, warnings: int) -> None:
    lines: list[str] = []
    sink = logger.add(lines.append, level="WARNING", format="{message}")
    try:
        feature_pair("m", samples(count, 8, seed=0), samples(20, 8, seed=1), neighbours=3)
    finally:
        logger.remove(sink)
    assert warnings == len(lines)
    assert all("too few" in line for line in lines)
