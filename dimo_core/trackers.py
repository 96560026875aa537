"""The tracker ``none``."""

from collections.abc import Mapping
from typing import Any

import attrs

from dimo_core.metric import Tracker


@attrs.frozen(kw_only=True)
class NoTracker(Tracker):
    """Sends numbers nowhere: ``metrics.jsonl`` and the report have them all."""

    def start(self, folder: str, config: Mapping[str, Any]) -> None:
        """Do nothing."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Do nothing."""

    def picture(self, step: int, name: str, path: str) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""
