"""``Tracker``: where scalars and pictures of a run go."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any


class Tracker(ABC):
    """Where scalars go while a run trains; a frozen attrs class of its options.

    ``metrics.jsonl`` is written whatever trackers are chosen.
    """

    @abstractmethod
    def start(self, folder: str, config: Mapping[str, Any]) -> None:
        """The run begins, or is resumed, in ``folder``."""

    @abstractmethod
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step."""

    @abstractmethod
    def picture(self, step: int, name: str, path: str) -> None:
        """A picture was written to ``path``."""

    @abstractmethod
    def finish(self) -> None:
        """The run ended."""
