"""What metrics in a feature space demand of samples and reference: ``feature_pair``, ``sample_features``."""

from jaxtyping import Float
from loguru import logger
from torch import Tensor

from dimo_core.errors import NumericalError, UsageError
from dimo_core.metric import Samples

EXTRACTOR = "The extractor is what 'features' of the evaluation plan names."
"""Said where the plan may lack one; where it has one that could not be used, another note says why."""


def feature_pair(
    metric: str, samples: Samples, reference: Samples | None, *, neighbours: int
) -> tuple[Float[Tensor, "N F"], Float[Tensor, "M F"]]:
    """The features of samples and reference, checked.

    A side with no more samples than feature dimensions is warned about: its covariance has no full rank,
    and distances in such a space say little.

    Args:
        metric: Whose features they are, for messages.
        samples: What is judged.
        reference: What it is compared with.
        neighbours: Nearest neighbours that each side must have.

    Raises:
        UsageError: without features or a reference, with too few samples, or with features of two widths.
        NumericalError: when features are not finite.
    """
    text = f"metric {metric!r} compares features of samples with those of a reference"
    if reference is None:
        more = f" {EXTRACTOR}" if samples.features is None else ""
        raise UsageError(f"{text}, and there is none. Name data and split in the evaluation plan.{more}")
    if samples.features is None and reference.features is None:
        raise UsageError(f"{text}, and both have none. {EXTRACTOR}")
    if samples.features is None:
        raise UsageError(f"{text}, and these samples have none.")
    if reference.features is None:
        raise UsageError(f"{text}, and the reference has none.")
    pair = {"samples": samples.features, "reference": reference.features}
    widths = {features.shape[1] for features in pair.values()}
    if len(widths) > 1:
        raise UsageError(f"metric {metric!r} got features of different widths: {sorted(widths)}.")
    for side, features in pair.items():
        _check(metric, side, features, neighbours)
    return samples.features, reference.features


def sample_features(metric: str, samples: Samples, *, neighbours: int) -> Float[Tensor, "N F"]:
    """The features of the samples alone, checked as by ``feature_pair``.

    Raises:
        UsageError: without features, or with too few samples.
        NumericalError: when features are not finite.
    """
    if samples.features is None:
        raise UsageError(f"metric {metric!r} compares features, and these samples have none. {EXTRACTOR}")
    _check(metric, "samples", samples.features, neighbours)
    return samples.features


def _check(metric: str, side: str, features: Float[Tensor, "N F"], neighbours: int) -> None:
    count, width = features.shape
    if count <= neighbours:
        raise UsageError(
            f"metric {metric!r} needs more than {neighbours} {side} (its neighbours), got {count}."
            " Draw more samples, or lower the number of neighbours."
        )
    if not features.isfinite().all():
        raise NumericalError(f"metric {metric!r}: the features of the {side} are not finite.")
    if count <= width:
        logger.warning(
            "metric {!r}: {} {} in {} feature dimensions are too few to trust the numbers",
            metric,
            count,
            side,
            width,
        )
