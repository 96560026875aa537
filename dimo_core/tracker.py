"""``Tracker``: where scalars and pictures of a run go."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from loguru import logger

from dimo_core.errors import reason


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


class Spared(Tracker):
    """A tracker that costs no run: when it fails, that is said, and it is left out from then on.

    Args:
        tracker: That tracker; None for none.
    """

    def __init__(self, tracker: Tracker | None) -> None:
        self._tracker = tracker

    def _told(self, what: str, *about: Any) -> None:
        if self._tracker is not None:
            try:
                getattr(self._tracker, what)(*about)
            except Exception as error:
                name = type(self._tracker).__name__
                logger.warning("the tracker {} failed and gets nothing more: {}", name, reason(error))
                self._tracker = None

    def start(self, folder: str, config: Mapping[str, Any]) -> None:
        """Tell it."""
        self._told("start", folder, config)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Tell it."""
        self._told("scalars", step, values)

    def picture(self, step: int, name: str, path: str) -> None:
        """Tell it."""
        self._told("picture", step, name, path)

    def finish(self) -> None:
        """Tell it."""
        self._told("finish")
