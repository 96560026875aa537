"""Intervals over halves of the samples: right width, right place, repeatable."""

from types import SimpleNamespace

import pytest
import torch

from dimo_core.evaluation.intervals import half_sample_intervals
from dimo_core.metric import Samples


def judge(metric):
    """A judge of one number of the features."""
    return lambda samples: {"x": float(metric(samples.features[:, 0]))}


def samples(count, seed=0):
    features = torch.randn(count, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Samples(conditions=(0,) * count, features=features)


@pytest.fixture
def interval():
    def make(metric, count=400, resamples=400, seed=0, data_seed=0):
        given = samples(count, data_seed)
        judged = judge(metric)
        found = half_sample_intervals(judged, given, judged(given), count=resamples, seed=seed)
        return SimpleNamespace(low=found["x"][0], high=found["x"][1], point=judged(given)["x"])

    return make


def test_the_interval_of_a_mean_is_that_of_theory(interval):
    found = interval(torch.mean)
    assert 2 * 1.96 / 400**0.5 == pytest.approx(found.high - found.low, rel=0.15)
    assert found.point == pytest.approx((found.low + found.high) / 2, abs=0.03)


def test_it_covers_the_truth_as_often_as_it_says(interval):
    intervals = [interval(torch.mean, 100, 60, data_seed=seed) for seed in range(120)]
    covered = sum(found.low <= 0 <= found.high for found in intervals) / 120
    assert 0.87 <= covered <= 0.99


def test_a_number_that_grows_on_fewer_samples_stays_in_its_interval(interval):
    found = interval(lambda x: 50 / len(x) + x.mean())
    assert found.low < found.point < found.high


def test_it_repeats_and_depends_on_the_seed(interval):
    first, second, other = interval(torch.mean), interval(torch.mean), interval(torch.mean, seed=1)
    assert (first.low, first.high) == (second.low, second.high)
    assert first.low != other.low


def test_a_number_that_is_not_finite_on_some_half_has_no_interval():
    given = samples(20)
    judged = judge(lambda x: float("nan") if x[0] > 0 else 1.0)
    assert {} == half_sample_intervals(judged, given, {"x": 1.0}, count=12, seed=0)
