"""The judge: references that are streamed, extractors that cannot be used, metrics and what they need."""

import re
from types import MappingProxyType

import attrs
import pytest
import torch
from loguru import logger

from dimo_core.choice import Choice
from dimo_core.errors import CheckpointError, PluginError, UsageError
from dimo_core.evaluation.comparison import size_notes
from dimo_core.evaluation.judge import Judge
from dimo_core.evaluation.observations import observation
from dimo_core.evaluation.table import Row
from dimo_core.metric import FeatureExtractor, Metric, Samples, joined_samples
from dimo_core.sources import Data, Picture, PictureStream


class Stream(PictureStream):
    classes, max_broken = ("even", "odd"), 0.2

    def __init__(self, pictures):
        self.pictures, self.shards = pictures, ("a", "b")

    def read(self, shard):
        half = len(self.pictures) // 2
        yield from self.pictures[:half] if shard == "a" else self.pictures[half:]


@attrs.frozen(kw_only=True)
class Streamed(Data):
    pictures: tuple = ()

    @property
    def streams(self):
        return True

    def splits(self):
        return ("held-out",)

    def load(self, split):
        raise AssertionError("streamed data are not loaded")

    def open(self, split):
        return Stream(self.pictures)


def pictures(count, broken=0):
    whole = tuple(
        Picture(key=str(i), label=i % 2, image=torch.full((1, 2, 2), i, dtype=torch.uint8))
        for i in range(count)
    )
    return whole + tuple(Picture(key=f"broken{i}", error="cut off") for i in range(broken))


@pytest.fixture
def judge(toy):
    def make(data=None, **plan):
        made = Judge.resolve(toy.Teacher(), attrs.evolve(toy.plan, **plan), toy.Registry(), batch_size=4)
        if data is not None:
            made.data = data
        return made

    return make


def test_a_streamed_reference_is_read_in_batches_and_its_images_are_not_kept(judge, monkeypatch):
    judged = judge(Streamed(pictures=pictures(10, broken=1)))
    monkeypatch.setattr(Judge, "keeps_images", False)
    sizes = []
    extract = type(judged.features).extract
    monkeypatch.setattr(
        type(judged.features), "extract", lambda self, x: sizes.append(len(x)) or extract(self, x)
    )
    reference = judged.reference
    assert [4, 4, 2] == sizes
    assert (None, (10, 4)) == (reference.images, tuple(reference.features.shape))
    assert list(range(10)) == reference.features[:, 0].tolist()
    assert tuple(i % 2 for i in range(10)) == reference.conditions


@pytest.mark.parametrize(("count", "broken"), [(10, 11), (0, 3)])
def test_a_reference_that_is_mostly_broken_is_an_error(judge, count, broken):
    with pytest.raises(UsageError, match=rf"{broken} of {count + broken} reference images .* \(cut off\)"):
        judge(Streamed(pictures=pictures(count, broken))).reference  # noqa: B018


def test_an_extractor_without_weights_is_noted_and_other_metrics_are_computed(judge, monkeypatch):
    judged = judge(metrics=(Choice("variety"), Choice("brightness")))

    def missing(self, images):
        raise CheckpointError("no weights here")

    @attrs.frozen(kw_only=True)
    class NeedsFeatures(Metric):
        def compute(self, samples, reference, teacher):
            if samples.features is None:
                raise UsageError("no features")
            return {"x": 1.0}

    monkeypatch.setattr(type(judged.features), "extract", missing)
    judged.metrics = {"variety": judged.metrics["variety"], "needy": NeedsFeatures()}
    tokens = torch.zeros(3, 4, dtype=torch.long)
    samples = Samples(conditions=(0, 1, 0), tokens=tokens, images=torch.zeros(3, 1, 2, 2, dtype=torch.uint8))
    found = judged.judged(judged.reduced(samples))
    assert ({"variety"}, ["brightness", "needy"]) == (set(found["metrics"]), found["missing"])
    assert ["no features: no weights here", "metric 'needy' is missing: no features"] == judged.notes
    assert judged.fingerprint is None


@attrs.frozen(kw_only=True)
class Small(FeatureExtractor):
    """Looks at images of 2 x 2 with one channel, or fails as it is told to."""

    fingerprint = "abc123"
    error: Exception | None = None

    def extract(self, images):
        if self.error is not None:
            raise self.error
        if images.shape[1:] != (1, 2, 2):
            raise UsageError(f"expected [N, 1, 2, 2], got {list(images.shape)}")
        return images.flatten(1).double(), images.flatten(1).double()


@attrs.frozen(kw_only=True)
class Distance(Metric):
    """Says which side has no features."""

    needs = frozenset({"features"})

    def compute(self, samples, reference, teacher):
        for side, each in {"samples": samples, "reference": reference}.items():
            if each.features is None:
                raise UsageError(f"the {side} have no features")
        return {"distance": (samples.features.mean() - reference.features.mean()).abs().item()}


def bright(side, count=3, channels=1):
    pixels = torch.full((count, channels, side, side), 9, dtype=torch.uint8)
    return Samples(conditions=(0,) * count, images=pixels)


def test_images_that_the_extractor_refuses_cost_only_their_own_features(judge):
    judged = judge(metrics=())
    judged.metrics, judged.features = {"distance": Distance()}, Small()
    foreign = joined_samples([judged.reduced(bright(side=64, count=n, channels=3)) for n in (3, 2)])
    assert (None, ["distance"]) == (foreign.features, judged.judged(foreign)["missing"])
    assert [
        "some features are missing: expected [N, 1, 2, 2], got [3, 3, 64, 64]",
        "metric 'distance' is missing: the samples have no features",
    ] == judged.notes
    assert judged.lacks(foreign)
    for own in (judged.floor, judged.reduced(bright(side=2))):
        assert {"distance"} == judged(own).keys()
    assert (2, "abc123") == (len(judged.notes), judged.fingerprint)


def test_batches_with_and_without_features_join_without_them(judge):
    judged = judge()
    judged.features = Small()
    whole = judged.reduced(bright(side=2))
    judged.features = Small(error=CheckpointError("the weights are gone"))
    batches = [whole, judged.reduced(bright(side=2))]
    for order in (batches, batches[::-1]):
        joined = joined_samples(order)
        assert (6, None, None) == (len(joined), joined.features, joined.logits)
        assert 6 == len(joined.images)
    assert ["no features: the weights are gone"] == judged.notes
    assert judged.features is None


@attrs.frozen(kw_only=True)
class Fixed(Metric):
    better = MappingProxyType({"x": "smaller"})
    needs = frozenset()
    numbers: dict

    def compute(self, samples, reference, teacher):
        return self.numbers


@attrs.frozen(kw_only=True)
class Other(Fixed):
    better = MappingProxyType({"x": "larger", "z": "larger"})


def test_of_two_numbers_of_one_name_the_first_is_kept_and_the_second_metric_is_missing(judge):
    judged = judge(metrics=())
    judged.metrics = {"one": Fixed(numbers={"x": 1.0, "y": 2.0}), "two": Other(numbers={"x": 3.0, "z": 4.0})}
    for _ in range(2):
        found = judged.judged(bright(side=2))
        assert [("x", 1.0), ("y", 2.0), ("z", 4.0)] == [*found["metrics"].items()]
        assert ["two"] == found["missing"]
    assert "metric 'two' gives x as one before it does: the first is kept. Judge with two" in judged.notes[0]
    assert (1, "smaller", "larger") == (len(judged.notes), judged.better["x"], judged.better["z"])


def test_of_two_metrics_of_one_name_in_a_plan_the_first_is_computed_and_it_is_said(judge):
    judged = judge(metrics=(Choice("variety"), Choice("brightness"), Choice("variety")))
    assert ["variety", "brightness"] == [*judged.metrics]
    assert "metric 'variety' is named more than once: only the first is computed" in judged.notes[0]


def test_missing_weights_are_said_before_they_are_needed_and_not_given_up(judge, monkeypatch):
    judged = judge(metrics=(Choice("variety"),))

    def missing(self):
        raise CheckpointError("no weights here")

    with monkeypatch.context() as lacking:
        lacking.setattr(type(judged.features), "fingerprint", property(missing))
        said = []
        sink = logger.add(said.append, format="{message}")
        judged.check()
        logger.remove(sink)
    assert "no weights here" in "".join(said)
    assert "abc123" == judged.fingerprint


@attrs.frozen(kw_only=True)
class Shade(Metric):
    """The mean of what it observed, and how often it looked."""

    needs = frozenset({"conditions"})
    observes = frozenset({"shade"})
    looks: list = attrs.field(factory=list)
    error: Exception | None = None

    def observe(self, samples, teacher):
        if self.error is not None:
            raise self.error
        self.looks.append(len(samples))
        return {"shade": samples.images.float().mean((1, 2, 3))}

    def compute(self, samples, reference, teacher):
        assert samples.images is None
        return {"shade": samples.observed["shade"].mean().item()}


def shades(judged, metric, conditions=(0, 1), images=True):
    """Two batches as they are drawn, joined."""
    judged.metrics, judged.plan = {"shade": metric}, attrs.evolve(judged.plan, metrics=(Choice("shade"),))
    pixels = [torch.full((2, 1, 2, 2), value, dtype=torch.uint8) if images else None for value in (10, 30)]
    batches = [Samples(conditions=conditions, tokens=torch.zeros(2, 4).long(), images=p) for p in pixels]
    return joined_samples([judged.reduced(batch) for batch in batches])


def test_a_metric_observes_each_batch_once_and_no_image_is_kept(judge):
    judged, metric = judge(data=Streamed(pictures=pictures(10))), Shade()
    samples = shades(judged, metric)
    assert samples.images is None
    assert {"shade": 20.0} == judged(samples)
    assert {"shade": 10.0} == judged(samples.take([0, 1]))
    assert [2, 2] == metric.looks  # and never at the reference, which is not judged
    assert not judged.lacks(samples)
    assert [] == judged.notes


@pytest.mark.parametrize(
    ("error", "again"), [(CheckpointError("no weights here"), False), (UsageError("not these"), True)]
)
def test_a_metric_that_cannot_observe_is_missing_and_the_reason_is_said_once(judge, error, again):
    judged = judge()
    samples = shades(judged, Shade(error=error))
    assert {"samples": len(samples), "metrics": {}, "missing": ["shade"]} == judged.judged(samples)
    assert [f"metric 'shade' is missing: {error}"] == judged.notes
    assert again == judged.lacks(samples)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({}, "observed nothing of 2 samples"),
        ({"shade": torch.zeros(3)}, "observed shade [3] of 2 samples"),
        ({"shade": torch.tensor(1.0)}, "observed shade [] of 2 samples"),
        ({"shade": [1.0, 2.0]}, "observed shade (list) of 2 samples"),
        ({"shadow": torch.zeros(2)}, "observed shadow [2] of 2 samples"),
        ({"shade": torch.zeros(2), "more": torch.zeros(2)}, "observed shade [2], more [2] of 2 samples"),
    ],
)
def test_what_a_metric_observes_is_checked_and_a_broken_one_is_missing(judge, rows, said):
    class Wrong(Shade):
        def observe(self, samples, teacher):
            return rows

    with pytest.raises(PluginError, match=re.escape(f"metric 'shade' {said}")) as error:
        observation("shade", Wrong(), bright(side=2, count=2), judge().teacher)
    assert "shade [2, ...]" in str(error.value)
    assert "Wrong" in str(error.value)
    judged = judge()
    samples = shades(judged, Wrong())
    assert {} == samples.observed
    assert {"samples": len(samples), "metrics": {}, "missing": ["shade"]} == judged.judged(samples)
    assert [f"metric 'shade' is missing: {error.value}"] == judged.notes
    assert not judged.lacks(samples)  # it is not asked again


def test_samples_without_images_or_conditions_are_not_observed(judge):
    judged = judge()
    assert ["shade"] == judged.judged(shades(judged, Shade(), images=False))["missing"]
    assert ["metric 'shade' is missing: it looks at images, and these samples have none"] == judged.notes
    judged = judge()
    assert [] == judged.judged(shades(judged, Shade(), conditions=(0, None)))["missing"]
    assert ["metric 'shade' is left out: it needs conditions, and these are not known"] == judged.notes


def test_metrics_that_need_conditions_are_left_out_where_they_are_unknown(judge, monkeypatch):
    judged = judge(metrics=(Choice("variety"), Choice("brightness")))
    monkeypatch.setattr(type(judged.metrics["brightness"]), "needs", frozenset({"features"}))
    images = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    found = judged.judged(Samples(conditions=(None,) * 3, images=images))
    assert {"brightness"} == set(found["metrics"])
    assert "metric 'variety' is left out: it needs conditions" in judged.notes[0]


def test_samples_are_taken_and_joined():
    whole = Samples(
        conditions=("a", "b", "c", "d"), tokens=torch.arange(8).view(4, 2), features=torch.randn(4, 3)
    )
    parts = [whole.take([0]), whole.take([1, 2, 3])]
    again = joined_samples(parts)
    assert (whole.conditions, None) == (again.conditions, again.images)
    assert torch.equal(whole.tokens, again.tokens)
    assert torch.equal(whole.features, again.features)


@pytest.mark.parametrize(
    ("counts", "width", "expected"),
    [
        ((50, 50), 64, ["50 samples are few for 64 features"]),
        ((100, 100), 64, ["100 samples for 64 features"]),
        ((1280, 1280), 64, []),
        ((1280, 2000), 64, ["Rows differ in n"]),
        ((1280,), 64, []),  # the real row has 500
        ((100, 200), 64, ["Rows differ in n", "100 samples for 64 features"]),
        ((3, 3), 0, []),
    ],
)
def test_small_samples_are_warned_of(counts, width, expected):
    rows = [Row(name="x", kind="teacher", samples=count, metrics={}) for count in counts]
    rows.append(Row(name="real data", kind="real", samples=500, metrics={}))
    notes = size_notes(width, rows, "--samples")
    assert expected == [next(start for start in expected if note.startswith(start)) for note in notes], notes


@attrs.frozen(kw_only=True)
class Placed(Small):
    device: str = "auto"


@pytest.mark.parametrize(("option", "expected"), [("auto", "cuda:1"), ("cpu", "cpu")])
def test_an_extractor_computes_on_the_device_of_the_run_unless_told_another(toy, option, expected):
    class Plugins(toy.Registry):
        def load(self, kind, name):
            return Placed if kind == "features" else super().load(kind, name)

    plan = attrs.evolve(toy.plan, features=Choice("placed", {"device": option}))
    for device, found in ((torch.device("cuda:1"), expected), (None, option)):
        judge = Judge.resolve(toy.Teacher(), plan, Plugins(), batch_size=4, device=device)
        assert found == judge.features.device
