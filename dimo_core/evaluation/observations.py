"""What is remembered of images when they are gone: features, and what metrics observe."""

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from dimo_core.errors import PluginError
from dimo_core.metric import FeatureExtractor, Metric, Samples
from dimo_core.teacher import Teacher


def extracted(extractor: FeatureExtractor, samples: Samples, size: int) -> Samples:
    """The samples with features, and logits where the extractor has some.

    Args:
        extractor: Looks at the images.
        samples: With images.
        size: Images that it sees at a time.

    Raises:
        UsageError: for images that it cannot look at.
        DimoError: when it cannot be used at all.
    """
    assert samples.images is not None
    with torch.no_grad():
        pairs = [extractor.extract(images) for images in torch.split(samples.images, size)]
    logits = [logits.cpu() for _, logits in pairs if logits is not None]
    return attrs.evolve(
        samples,
        features=torch.cat([features.cpu() for features, _ in pairs]),
        logits=torch.cat(logits) if logits else None,
    )


def unseen(metrics: Mapping[str, Metric], samples: Samples) -> set[str]:
    """Metrics that have yet to observe these samples, and know enough of them.

    Args:
        metrics: By registry name.
        samples: Without images too.
    """
    unknown = None in samples.conditions
    return {
        name
        for name, metric in metrics.items()
        if not metric.observes <= samples.observed.keys() and not (unknown and "conditions" in metric.needs)
    }


def observation(name: str, metric: Metric, samples: Samples, teacher: Teacher) -> dict[str, Tensor]:
    """What a metric observes of samples, on the CPU.

    Args:
        name: Its registry name, for messages.
        metric: Looks at the images.
        samples: With images.
        teacher: Whose samples they are.

    Raises:
        PluginError: when that is not what its ``observes`` says, or not a row for each sample.
        DimoError: when it cannot observe them.
    """
    with torch.no_grad():
        rows = dict(metric.observe(samples, teacher))
    if rows.keys() != metric.observes or not all(_fits(each, len(samples)) for each in rows.values()):
        gave = ", ".join(f"{key} {_shape(each)}" for key, each in rows.items()) or "nothing"
        expected = ", ".join(f"{key} [{len(samples)}, ...]" for key in sorted(metric.observes))
        raise PluginError(
            f"metric {name!r} observed {gave} of {len(samples)} samples; by its `observes` it must give a "
            f"tensor with a row for each sample: {expected}. Mend its class {type(metric).__qualname__}."
        )
    return {key: each.cpu() for key, each in rows.items()}


def _fits(value: Any, count: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == count


def _shape(value: Any) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else f"({type(value).__name__})"
