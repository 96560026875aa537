"""Standard streams that are closed, full, or lead to a reader or a terminal that is gone.

What cannot be written there is lost, and the work goes on. What went to stdout was asked for, so its loss is
an error when the work is done; stderr only tells on the way.
"""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast


class Patient:
    """A stream that remembers why something was lost, instead of raising it."""

    def __init__(self, stream: TextIO, *, shared: bool = False) -> None:
        self._stream, self._shared = stream, shared
        self.lost: OSError | None = None

    def isatty(self) -> bool:
        """Whether it is a terminal, which no other process writes to."""
        return not self._shared and self._stream.isatty()

    def write(self, text: str) -> int:
        """Write, if that is possible."""
        try:
            self._stream.write(text)
        except OSError as error:
            self.lost = error
        return len(text)

    def flush(self) -> None:
        """Flush, if that is possible."""
        try:
            self._stream.flush()
        except OSError as error:
            self.lost = error

    def __getattr__(self, name: str) -> Any:
        """All else is that of the stream."""
        return getattr(self._stream, name)


def follows() -> bool:
    """Whether a launcher started this process beside another one, which speaks for all."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0"


@contextmanager
def standard_streams(*, mute: bool = False) -> Iterator[Patient]:
    """Standard streams that are there and raise nothing; yields stdout.

    Args:
        mute: What is written to stdout goes nowhere.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed: a file that is opened later would get its number
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115
    nowhere = io.StringIO() if mute else sys.stdout
    both = [Patient(nowhere), Patient(sys.stderr, shared=mute)]
    out, err = (cast(TextIO, stream) for stream in both)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            yield both[0]
    finally:
        for stream in both:
            stream.flush()
            if stream.lost is not None:  # Python would complain of what is left in it at its exit
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
