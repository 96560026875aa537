"""Metrics and feature extractors."""

from typing import Any

import attrs
from jaxtyping import UInt8
from torch import Tensor

from dimo_core.metric import FeatureExtractor, Metric, Samples
from dimo_core.teacher import Teacher
from dimo_core.testing.expectations import explained, explains, require, require_close, require_shape
from dimo_core.testing.options import check_options
from dimo_core.testing.untouched import untouched

NEEDS = ("conditions", "tokens", "images", "features")
"""What a metric may read of samples."""

OWN = {"tokens": ("tokens", "counted", "calls"), "images": ("images",), "features": ("features", "logits")}
"""Fields of samples by what a metric says in ``needs``."""


@explains
def check_metric(
    metric: Metric, samples: Samples, teacher: Teacher, reference: Samples | None = None
) -> None:
    """Floats by name, the same every time, of nothing but what ``needs`` says.

    Args:
        metric: With any options.
        samples: Some, with all that it needs.
        teacher: Whose samples they are.
        reference: Real samples, where it compares with some.
    """
    check_options(metric)
    name = type(metric).__qualname__
    wrong = sorted({*metric.needs} - {*NEEDS})
    require(not wrong, f"needs of {name} are among {', '.join(NEEDS)}; {', '.join(wrong)} is none")
    require(isinstance(metric.fingerprint, str | None), f"the fingerprint of {name} is text or None")
    samples = _observed(metric, samples, teacher)
    with explained(f"{name}.compute takes these samples"), untouched(f"{name}.compute", samples, reference):
        numbers = metric.compute(samples, reference, teacher)
    require(len(numbers) > 0, f"{name}.compute gives numbers by name, and it gave none")
    for key, value in numbers.items():
        told = f"{name}.compute gives Python floats by name; {key!r} is {type(value).__name__}"
        require(isinstance(key, str) and isinstance(value, float), told)
    again = metric.compute(samples, reference, teacher)
    require(_alike(again, numbers), f"{name}.compute gives the same numbers at every call")
    missing = sorted({*metric.better} - {*numbers})
    told = f"better of {name} names numbers that compute gives"
    require(not missing, f"{told}: {', '.join(sorted(numbers))}; {missing[:1]} is none of them")
    unknown = sorted({*map(str, metric.better.values())} - {"larger", "smaller"})
    require(not unknown, f"better of {name} is larger or smaller for each number; {unknown[:1]} is neither")
    unread: dict[str, Any] = {f: None for need, own in OWN.items() if need not in metric.needs for f in own}
    bare = attrs.evolve(samples, **unread)
    if "conditions" not in metric.needs:
        bare = attrs.evolve(bare, conditions=(None,) * len(samples))
    what = f"needs of {name} names all that compute reads: {', '.join(sorted(metric.needs)) or 'nothing'}"
    with explained(what):
        require(_alike(metric.compute(bare, reference, teacher), numbers), what)


def _alike(a: object, b: object) -> bool:
    return repr(a) == repr(b)  # NaN is equal to itself here


def _observed(metric: Metric, samples: Samples, teacher: Teacher) -> Samples:
    """Samples with what the metric remembers of their images, which must depend on each sample alone."""
    if not metric.observes and samples.images is None:
        return samples
    name, seen = type(metric).__qualname__, metric.observe(samples, teacher)
    told = f"{name}.observe gives what observes names: {sorted(metric.observes)}, not {sorted(seen)}"
    require({*seen} == {*metric.observes}, told)
    part = metric.observe(samples.take([1]), teacher) if seen else {}
    for key, value in seen.items():
        require(len(value) == len(samples), f"{name}.observe gives a row of {key!r} for each sample")
        require_close(part[key], value[1:2], f"a row of {key!r} depends on its sample alone", 1e-5)
    return attrs.evolve(samples, observed={**samples.observed, **seen})


@explains
def check_features(extractor: FeatureExtractor, images: UInt8[Tensor, "N C H W"]) -> None:
    """A row of features for each image, by itself, and a fingerprint that stays.

    Args:
        extractor: With weights at hand.
        images: At least two.
    """
    check_options(extractor)
    name, count = type(extractor).__qualname__, len(images)
    features, logits = extractor.extract(images)
    require_shape(features, (count, features.shape[-1]), f"features of {name}")
    for what, found in (("features", features), ("logits", logits)):
        if found is not None:
            require(
                found.is_floating_point() and len(found) == count,
                f"{what} of {name} are floats, one row each",
            )
            require(bool(found.isfinite().all()), f"{what} of {name} are finite")
    alone, _ = extractor.extract(images[1:2])
    require_close(alone, features[1:2], f"features of {name} are those of each image by itself", 1e-4)
    same = isinstance(extractor.fingerprint, str) and extractor.fingerprint == extractor.fingerprint
    require(same, f"the fingerprint of {name} is text, the same at every call")
