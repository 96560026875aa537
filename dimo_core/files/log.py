"""Text files that grow while a run goes on: ``Log``."""

import math
import time
from contextlib import AbstractContextManager, suppress

import attrs

from dimo_core.errors import StorageError
from dimo_core.files.folder import Folder
from dimo_core.files.urls import local_path

LATE = 30.0
"""Seconds that pass between two writings of a log where a file is written anew for each."""


@attrs.define(eq=False)
class Log(AbstractContextManager["Log"]):
    """A text file that grows line by line.

    A local file has each line at once. On object stores, which write files as a whole, lines wait until
    ``LATE`` seconds have passed since others were written, for ``flush``, or for the end of ``with``.

    Attributes:
        folder: Where it is.
        name: The file.
    """

    folder: Folder
    name: str
    _waiting: str = attrs.field(init=False, default="")
    _written: float = attrs.field(init=False, default=-math.inf)

    def write(self, text: str) -> None:
        """Add whole lines.

        Raises:
            StorageError: when they cannot be written; they wait for the next time then.
        """
        self._waiting += text
        if local_path(self.folder.url) is not None or time.monotonic() - self._written >= LATE:
            self.flush()

    def flush(self) -> None:
        """Write what waits.

        Raises:
            StorageError: when it cannot be written.
        """
        if self._waiting:
            self._written = time.monotonic()  # also of a failure: nobody waits for every line of a lost store
            self.folder.append(self.name, self._waiting)
            self._waiting = ""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write what waits; where something else has failed, that is the error."""
        with suppress(*(() if kind is None else (StorageError,))):
            self.flush()
