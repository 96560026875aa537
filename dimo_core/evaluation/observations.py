"""What metrics remember of images when they are gone."""

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
    shapes = {
        key: list(each.shape) if isinstance(each, Tensor) else f"({type(each).__name__})"
        for key, each in rows.items()
    }
    if rows.keys() != metric.observes or any(shape[:1] != [len(samples)] for shape in shapes.values()):
        gave = ", ".join(f"{key} {shape}" for key, shape in shapes.items()) or "nothing"
        expected = ", ".join(f"{key} [{len(samples)}, ...]" for key in sorted(metric.observes))
        raise PluginError(
            f"metric {name!r} observed {gave} of {len(samples)} samples; by its `observes` it must give a "
            f"tensor with a row for each sample: {expected}. Mend its class {type(metric).__qualname__}."
        )
    return {key: each.cpu() for key, each in rows.items()}
