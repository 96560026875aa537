"""What metrics remember of images when they are gone."""

from typing import Any

import torch
from torch import Tensor

from dimo_core.errors import PluginError
from dimo_core.metric import Metric, Samples
from dimo_core.teacher import Teacher


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
