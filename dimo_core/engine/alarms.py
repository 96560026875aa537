"""Alarms: what usually comes before a run is lost, said once and loudly."""

import math
from collections.abc import Mapping

from loguru import logger

COLLAPSED = 0.005
"""Share of the largest possible entropy below which p_theta counts as collapsed."""

DRIFTED = 100.0
"""Root mean square of centred logits above which they count as drifting; trained networks have 1 to 20."""


class Alarms:
    """Watches the logged scalars for entropy collapse and logit drift.

    Args:
        codes: Number of codes V.
    """

    def __init__(self, codes: int) -> None:
        self.largest, self.raised = math.log(codes), set[str]()

    def check(self, step: int, values: Mapping[str, float]) -> None:
        """Warn about the scalars of one step, each alarm once a run."""
        entropy = values.get("entropy_theta", self.largest)
        if entropy < COLLAPSED * self.largest:
            self._raise(
                "entropy",
                f"step {step}: the entropy of p_theta has collapsed to {entropy:.2g} nats. Look at the "
                "newest sheet in samples/. If samples of a class look alike, lower the generator's learning "
                "rate, raise that of the auxiliary, or take generator.r_init nearer to 0.6.",
            )
        if (scale := values.get("logit_scale", 0.0)) > DRIFTED:
            self._raise(
                "drift",
                f"step {step}: the generator's logits have drifted to a scale of {scale:.3g}. Lower its "
                "learning rate, or let it decay.",
            )

    def _raise(self, name: str, text: str) -> None:
        if name not in self.raised:
            self.raised.add(name)
            logger.warning("ALARM at {}", text)
