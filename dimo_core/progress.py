"""Long work: how far it is, in a live bar or in plain lines, and signals that ask it to stop."""

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from loguru import logger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

UNKNOWN = "-:--"
"""Stands for the time left until something was done by which to estimate it."""

SHOWN = ("divergence", "loss", "entropy_theta", "eval/fid")


class Progress:
    """Shows how far a run is: a live bar on a terminal, plain lines elsewhere.

    Args:
        total: Number of steps.
        done: Steps that are finished already: the estimate is made from the others.
        interval: Seconds between plain lines.
        unit: What a step is called.
    """

    def __init__(self, total: int, done: int = 0, interval: float = 15.0, unit: str = "step") -> None:
        self.total, self.found, self.interval, self.unit = total, done, interval, unit
        self.began = self.last = time.monotonic()
        self.values: dict[str, float] = {}
        wide = Column(ratio=1, no_wrap=True, overflow="ellipsis")
        columns = (
            BarColumn(20),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[left]} left", table_column=Column(no_wrap=True)),
            TextColumn("{task.description}", table_column=wide),
        )
        console, disable = Console(stderr=True), not sys.stderr.isatty()
        self.bar = Bar(*columns, console=console, transient=True, expand=True, disable=disable)
        self.task = self.bar.add_task("", total=total, completed=done, left=UNKNOWN)

    def __enter__(self) -> "Progress":
        """Show the bar, on a terminal."""
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
        if not self.bar.disable:  # some versions of rich end a bar that was never shown with an empty line
            self.bar.stop()

    def advance(
        self, done: int, values: Mapping[str, float], note: str = "", found: int | None = None
    ) -> None:
        """``done`` steps are finished.

        Args:
            done: How many.
            values: This step's scalars, if it was logged.
            note: What is being done, where that is no training.
            found: How many of ``done`` were found finished, not done since the start, which says nothing
                about the time that others take; None when no more than before.
        """
        self.values |= {name: value for name, value in values.items() if name in SHOWN}
        numbers = note or "  ".join(f"{name} {value:.4g}" for name, value in self.values.items())
        self.found = self.found if found is None else found
        now = time.monotonic()
        worked = done - self.found
        left = clock((now - self.began) / worked * (self.total - done)) if worked > 0 else UNKNOWN
        left = clock(0.0) if done == self.total else left
        self.bar.update(self.task, completed=done, description=numbers, left=left)
        if self.bar.disable and (now - self.last >= self.interval or done == self.total):
            self.last = now
            logger.info("{} {}/{}  {}  {} left", self.unit, done, self.total, numbers, left)


def clock(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


NOTICES = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)
)
"""Signals by which systems say that a process has to end: a lost terminal, a batch system's limits."""

Handler = Callable[[int, FrameType | None], None]


def _interrupt(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def interruptible(handler: Handler = _interrupt, also: Sequence[signal.Signals] = ()) -> Iterator[None]:
    """Within, ``NOTICES`` act as Ctrl-C; those that are ignored (``nohup``) or another's business do not.

    Args:
        handler: What they call instead.
        also: Signals that call it besides, whoever has handled them.
    """
    free = [number for number in NOTICES if signal.getsignal(number) in (signal.SIG_DFL, _interrupt)]
    old = {}
    with suppress(ValueError):  # only the main thread may; elsewhere signals are its caller's business
        for number in {*free, *also}:
            old[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, before in old.items():
            signal.signal(number, before)


class Stop:
    """Turns SIGINT and ``NOTICES`` into a request to stop after the step; SIGINT after it stops at once."""

    def __init__(self) -> None:
        self.requested = ""
        self._within = interruptible(self._handle, (signal.SIGINT, signal.SIGTERM))

    def _handle(self, number: int, _: FrameType | None) -> None:
        if not self.requested:
            self.requested = signal.Signals(number).name
            logger.warning("{}: finishing this step, then saving; Ctrl-C then stops at once", self.requested)
        elif number == signal.SIGINT:  # batch systems send several, and none of them wants the state lost
            raise KeyboardInterrupt

    def __enter__(self) -> "Stop":
        """Install the handlers, where this is the main thread."""
        self._within.__enter__()
        return self

    def __exit__(self, *stopped: Any) -> None:
        """Put the old handlers back."""
        self._within.__exit__(*stopped)
