"""The metric keeps what dimo relies on, and counts right."""

import pytest
import torch
from dimo_core.errors import UsageError
from dimo_core.metric import Samples
from dimo_core.testing import TinyTeacher, check_metric

from dimo_repeats.metric import Repeats

SAMPLES = Samples(
    conditions=(0, 1),
    tokens=torch.tensor([[3, 3, 0, 0, 1], [0, 1, 2, 3, 4]]),
    counted=torch.tensor([[True] * 5, [True, True, True, False, False]]),
)


def test_it_keeps_the_contract() -> None:
    check_metric(Repeats(), SAMPLES, TinyTeacher())


def test_two_of_four_pairs_and_none_of_two_are_two_of_six() -> None:
    (share,) = Repeats().compute(SAMPLES, None, TinyTeacher()).values()
    assert share == pytest.approx(2 / 6)


def test_samples_that_are_too_short_are_refused() -> None:
    with pytest.raises(UsageError, match="over 5 tokens"):
        Repeats(distance=5).compute(SAMPLES, None, TinyTeacher())
