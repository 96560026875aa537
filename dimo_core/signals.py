"""Signals that ask a run to stop: the step is finished and the state saved first."""

import signal
from types import FrameType

from loguru import logger


class Stop:
    """Turns SIGINT and SIGTERM into a request to stop after the step; a second SIGINT stops at once."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = ""

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name
        logger.warning("{}: finishing this step, then saving; once more to stop at once", self.requested)

    def __enter__(self) -> "Stop":
        """Install the handlers, where this is the main thread."""
        try:
            self._old = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        except ValueError:  # only the main thread may; elsewhere signals are its caller's business
            self._old = {}
        return self

    def __exit__(self, *_: object) -> None:
        """Put the old handlers back."""
        for number, handler in self._old.items():
            signal.signal(number, handler)
