"""Alarms: what usually comes before a run is lost, said once and loudly."""

import math
from collections.abc import Mapping

from loguru import logger

COLLAPSED = 0.005
"""Share of the largest possible entropy below which p_theta counts as collapsed."""

DRIFTED = 100.0
"""Root mean square of centred logits above which they count as drifting; trained networks have 1 to 20."""


def alarm(step: int, values: Mapping[str, float], *, codes: int, raised: set[str]) -> None:
    """Warn of entropy collapse and logit drift, each once a run.

    Args:
        step: The step.
        values: Its logged scalars.
        codes: Number of codes V.
        raised: Alarms that were raised before, to which those of this step are added.
    """
    found, largest = dict[str, str](), math.log(codes)
    if (entropy := values.get("entropy_theta", largest)) < COLLAPSED * largest:
        found["entropy"] = (
            f"step {step}: the entropy of p_theta has collapsed to {entropy:.2g} nats. Look at the "
            "newest sheet in samples/. If samples of a class look alike, lower the generator's learning "
            "rate, raise that of the auxiliary, or take generator.r_init nearer to 0.6."
        )
    if (scale := values.get("logit_scale", 0.0)) > DRIFTED:
        found["drift"] = (
            f"step {step}: the generator's logits have drifted to a scale of {scale:.3g}. Lower its "
            "learning rate, or let it decay."
        )
    for name in found:
        if name not in raised:
            logger.warning("ALARM at {}", found[name])
    raised.update(found)
