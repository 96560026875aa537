"""The reader of digits and its exact metrics."""

import math
import re
from importlib.resources import files

import attrs
import pytest
import torch
from torch import Tensor

from dimo_core.conditions import Conditioning
from dimo_core.errors import UsageError
from dimo_core.metric import Samples
from dimo_core.teacher import Teacher
from dimo_digits.data import Digits
from dimo_digits.metric import READABLE, DigitMetrics, classes_of_digits, entropy_within_classes
from dimo_digits.reader import DigitReader, ReaderNetwork, prepare, shipped_reader
from dimo_digits.train_reader import Training, distort, scores, train
from dimo_metrics.fidelity import Fidelity

EVEN_ODD = ("even", "odd")
TEN = tuple("0123456789")


def teacher_of(*classes: str) -> Teacher:
    """The metrics look at the classes of a teacher and nothing else."""

    class Stub(Teacher):
        conditioning = Conditioning(kind="label", classes=classes)  # type: ignore[assignment]

    Stub.__abstractmethods__ = frozenset()
    return Stub()


def real(split: str, classes: str = "parity") -> Samples:
    examples = Digits(classes=classes).load(split)
    return Samples(conditions=tuple(examples.labels.tolist()), images=examples.images)


def reads(*digits: int, conditions: tuple[int, ...], sure: float = 20.0) -> Samples:
    logits = torch.nn.functional.one_hot(torch.tensor(digits), 10) * sure
    return Samples(conditions=conditions, logits=logits)


def test_the_shipped_reader_reads_scans_it_never_saw() -> None:
    numbers = DigitMetrics().compute(real("reference"), None, teacher_of(*EVEN_ODD))
    assert numbers["readable"] >= 0.97
    assert numbers["accuracy"] >= 0.99
    assert math.log(5) == pytest.approx(numbers["entropy"], abs=0.002)


def test_the_shipped_reader_tells_the_ten_digits_apart() -> None:
    numbers = DigitMetrics().compute(real("reference", "digit"), None, teacher_of(*TEN))
    assert numbers["accuracy"] >= 0.99
    assert numbers["entropy"] == 0


def test_scans_cut_from_two_digits_are_rarely_readable() -> None:
    examples = Digits().load("teacher")
    other = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0))
    halves = torch.cat([examples.images[:, :, :4], examples.images[other][:, :, 4:]], 2)
    differ = examples.details["digit"] != examples.details["digit"][other]
    chimeras = Samples(conditions=(0,) * int(differ.sum()), images=halves[differ])
    numbers = DigitMetrics().compute(chimeras, None, teacher_of(*EVEN_ODD))
    assert numbers["readable"] < 0.55


def test_features_have_mean_0_and_variance_1_on_the_readers_own_scans() -> None:
    features, logits = DigitReader().extract(real("reader").images)
    assert logits is not None
    assert (362, 32) == tuple(features.shape)
    assert (362, 10) == tuple(logits.shape)
    torch.testing.assert_close(torch.zeros(32), features.mean(0), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.ones(32), features.std(0), atol=1e-4, rtol=0)


def test_what_the_reader_says_of_an_image_does_not_depend_on_the_batch() -> None:
    images = real("reference").images[:7]
    together, _ = DigitReader().extract(images)
    torch.testing.assert_close(together[3:4], DigitReader().extract(images[3:4])[0])


def test_the_fingerprint_is_a_fixed_sha_256() -> None:
    assert 64 == len(DigitReader().fingerprint)
    assert DigitReader().fingerprint == DigitReader().fingerprint


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 28, 28)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"\[N, 1, 8, 8\]"):
        DigitReader().extract(torch.zeros(shape, dtype=torch.uint8))


def test_accuracy_counts_digits_of_the_class_that_was_asked_for() -> None:
    samples = reads(0, 2, 3, 5, conditions=(0, 1, 1, 0))
    assert 0.5 == DigitMetrics().compute(samples, None, teacher_of(*EVEN_ODD))["accuracy"]
    samples = reads(0, 2, 3, 5, conditions=(0, 2, 3, 4))
    assert 0.75 == DigitMetrics().compute(samples, None, teacher_of(*TEN))["accuracy"]


def test_readable_compares_the_largest_probability_with_the_threshold() -> None:
    probabilities = torch.full((2, 10), 0.2 / 9)
    probabilities[0, 4], probabilities[1, 4] = 0.8001, 0.75
    samples = Samples(conditions=(0, 0), logits=probabilities.log())
    assert 0.5 == DigitMetrics().compute(samples, None, teacher_of(*EVEN_ODD))["readable"]
    assert 1.0 == DigitMetrics(threshold=0.7).compute(samples, None, teacher_of(*EVEN_ODD))["readable"]
    assert READABLE == DigitMetrics().threshold


@pytest.mark.parametrize(
    ("read", "asked", "entropy"),
    [
        ([0, 2, 4, 6, 8], [0] * 5, math.log(5)),
        ([0, 0, 0, 1, 3], [0, 0, 0, 1, 1], math.log(2) / 2),
        ([0, 2, 1, 3, 5], [0] * 5, math.log(2)),
        ([1, 1], [0, 0], 0.0),
    ],
)
def test_entropy_is_that_of_the_digits_within_the_class(
    read: list[int], asked: list[int], entropy: float
) -> None:
    found = entropy_within_classes(torch.tensor(read), torch.tensor(asked), classes_of_digits(EVEN_ODD))
    assert entropy == pytest.approx(found)


def test_the_reader_is_run_where_logits_are_missing_or_another_extractors() -> None:
    samples = real("reference")
    teacher = teacher_of(*EVEN_ODD)
    expected = DigitMetrics().compute(samples, None, teacher)
    foreign = attrs.evolve(samples, logits=torch.zeros(len(samples), 1000))
    assert expected == DigitMetrics().compute(foreign, None, teacher)


def test_samples_that_are_no_images_are_refused() -> None:
    with pytest.raises(UsageError, match="tokens"):
        DigitMetrics().compute(Samples(conditions=(0,)), None, teacher_of(*EVEN_ODD))


@pytest.mark.parametrize("classes", [(), ("cat", "dog"), ("odd", "even")])
def test_classes_that_are_no_digits_are_refused(classes: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="even, odd"):
        classes_of_digits(classes)


def test_training_repeats_exactly_and_leaves_the_global_random_state_alone() -> None:
    state = torch.random.get_rng_state()
    first, second = (train(Training(steps=3)) for _ in range(2))
    assert torch.equal(state, torch.random.get_rng_state())
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    other = train(Training(steps=3, seed=1))
    assert not torch.equal(first.head.weight, other.head.weight)


def test_a_little_training_reads_most_reference_scans() -> None:
    assert scores(train(Training(steps=150)), READABLE)["reference"]["accuracy"] > 0.8


def test_distortions_are_small_and_keep_paper_white() -> None:
    torch.manual_seed(0)
    x = prepare(real("reader").images)
    y = distort(x)
    assert x.shape == y.shape
    assert (y.min(), y.max()) == (-1, 1)
    blank = distort(torch.full((50, 1, 8, 8), -1.0))
    assert blank.mean() < -0.9
    assert 0.05 < (x - y).abs().mean() < 0.5


def with_features(images: Tensor) -> Samples:
    features, logits = DigitReader().extract(images)
    return Samples(conditions=(0,) * len(images), images=images, features=features, logits=logits)


def test_real_scans_are_far_closer_to_real_scans_than_chimeras_are() -> None:
    reference = with_features(real("reference").images)
    teacher_scans = real("teacher").images
    floor = Fidelity().compute(with_features(teacher_scans), reference, teacher_of())
    assert floor["fid"] < 0.1
    assert abs(floor["kid"]) < 0.05
    assert floor["precision"] > 0.85
    assert floor["recall"] > 0.85
    order = torch.randperm(len(teacher_scans), generator=torch.Generator().manual_seed(0))
    halves = torch.cat([teacher_scans[:, :, :4], teacher_scans[order][:, :, 4:]], 2)
    chimeras = Fidelity().compute(with_features(halves), reference, teacher_of())
    assert chimeras["fid"] > 20 * floor["fid"]


def test_the_card_quotes_the_scores_of_the_shipped_weights() -> None:
    card = files("dimo_digits").joinpath("READER.md").read_text()
    for split, numbers in scores(shipped_reader(), READABLE).items():
        row = re.search(rf"^\| {split} .*$", card, re.MULTILINE)
        assert row is not None
        quoted = [float(x) for x in re.findall(r"\d\.\d+", row.group())]
        assert quoted == pytest.approx(list(numbers.values()), abs=6e-4)
    assert DigitReader().fingerprint in card


def test_the_network_is_small() -> None:
    assert sum(p.numel() for p in ReaderNetwork().parameters()) < 50_000


@pytest.mark.slow
def test_the_documented_command_makes_a_reader_as_good_as_the_shipped_one() -> None:
    table = scores(train(Training()), READABLE)
    assert table["reference"]["accuracy"] > 0.98
    assert table["reference"]["readable"] > 0.95
