"""The embedded scans and their parts."""

import pytest
import torch

from dimo_core.errors import UsageError
from dimo_digits.data import SPLITS, Digits, scans, split_of

COUNTS = {"teacher": 1078, "reader": 362, "reference": 357}


def test_the_parts_are_complete_disjoint_and_fixed() -> None:
    stored = scans()
    assert COUNTS == {name: len(Digits().load(name)) for name in SPLITS}
    assert 1797 == sum(COUNTS.values()) == len(stored["images"])
    assert torch.equal(split_of(stored["digits"].long()), stored["split"].long())


@pytest.mark.parametrize("split", SPLITS)
def test_each_part_holds_the_digits_in_the_same_shares(split: str) -> None:
    share = scans()["digits"].long().bincount(minlength=10) / 1797
    counts = Digits().load(split).details["digit"].bincount(minlength=10)
    assert (counts - share * counts.sum()).abs().max() < 1.5


@pytest.mark.parametrize("split", SPLITS)
def test_the_condition_is_even_or_odd(split: str) -> None:
    examples = Digits().load(split)
    assert ("even", "odd") == examples.classes
    assert torch.equal(examples.details["digit"] % 2, examples.labels)


def test_the_condition_can_be_the_digit() -> None:
    examples = Digits(classes="digit").load("reader")
    assert tuple("0123456789") == examples.classes
    assert torch.equal(examples.details["digit"], examples.labels)


def test_images_use_the_whole_range_of_bytes() -> None:
    images = Digits().load("reference").images
    assert torch.uint8 == images.dtype
    assert (357, 1, 8, 8) == tuple(images.shape)
    stored = scans()["images"][scans()["split"] == 2]
    assert torch.equal(stored, (images[:, 0].float() * 16 / 255).round().to(torch.uint8))
    assert (0, 255) == (int(images.min()), int(images.max()))


def test_no_scan_is_in_two_parts() -> None:
    seen = [set(map(bytes, Digits().load(name).images.flatten(1).numpy())) for name in SPLITS]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


def test_an_unknown_part_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="teacher, reader, reference"):
        Digits().load("train")


def test_an_unknown_choice_of_classes_is_refused() -> None:
    with pytest.raises((ValueError, TypeError)):
        Digits(classes="prime")


def test_the_scans_are_those_of_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    source = datasets.load_digits()
    assert (source.images == scans()["images"].numpy()).all()
    assert (source.target == scans()["digits"].numpy()).all()
