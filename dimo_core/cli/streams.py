"""Standard streams that are closed, full, or lead to a terminal that is gone.

What goes to stderr is told on the way: it may be lost, and the work goes on. What goes to stdout was asked
for, so losing it is an error, found at the end, when the work is done.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from typing import Any, TextIO, cast


class _Forgiving:
    """A stream that loses what cannot be written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, if that is possible."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, if that is possible."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def standard_streams() -> Iterator[None]:
    """Streams that are there within; at the end nothing is in them that Python would complain of."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed: files that are opened later would get its number
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115
    errors = sys.stderr
    try:
        with redirect_stderr(cast(TextIO, _Forgiving(errors))):
            yield
    finally:
        for stream in (sys.stdout, errors):
            if lost(stream) is not None:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def lost(stream: TextIO) -> OSError | None:
    """Why what was written to a stream does not get through; None when it does."""
    try:
        stream.flush()
    except OSError as error:
        return error
    return None
