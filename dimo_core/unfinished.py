"""Samples that are being drawn: what was asked for and what is there, so that the rest can be drawn later.

Sample i is a pure function of what was asked for, so nothing else is needed. The folder ``unfinished`` beside
the samples holds the request and, for each batch whose files are written, its records; it goes when all is
there.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from dimo_core.errors import UsageError
from dimo_core.files.folder import Folder

PLACE = "unfinished"
REQUEST = "request.json"


@attrs.frozen
class Unfinished:
    """The state of a folder of samples.

    Attributes:
        folder: Where the samples go.
    """

    folder: Folder

    @classmethod
    def open(cls, url: str) -> "Unfinished":
        """A folder for samples: an empty one, or one in which drawing was stopped.

        Raises:
            UsageError: when there is something else in it.
            StorageError: when it cannot be written.
        """
        folder = Folder(url)
        if folder.names() and not folder.exists(PLACE, REQUEST):
            raise UsageError(
                f"{folder.url!r} is not empty, and samples overwrite nothing. Choose another --out."
            )
        folder.claim()
        return cls(folder)

    def begin(self, request: Mapping[str, Any]) -> None:
        """Write down what is asked for, or look whether it is what was asked for before.

        Raises:
            UsageError: when it is not.
        """
        wanted = json.loads(json.dumps(request, default=str))
        if not self.folder.exists(PLACE, REQUEST):
            self.folder.write_json(f"{PLACE}/{REQUEST}", wanted)
            return
        before = json.loads(self.folder.read(PLACE, REQUEST))
        if names := sorted(n for n in {*before, *wanted} if before.get(n) != wanted.get(n)):
            raise UsageError(
                f"{self.folder.url!r} holds a part of other samples than are asked for now: they differ in "
                f"{', '.join(names)}. Give the options of then to draw their rest, or another --out."
            )

    def records(self, start: int) -> list[dict[str, Any]] | None:
        """What was kept of the batch that begins at sample ``start``; None when it is not there."""
        if not self.folder.exists(_part(start)):
            return None
        return [json.loads(line) for line in self.folder.read(_part(start)).splitlines()]

    def keep(self, start: int, records: Sequence[Mapping[str, Any]]) -> None:
        """Write down that the files of a batch are written."""
        text = "".join(f"{json.dumps(record)}\n" for record in records)
        self.folder.write(_part(start), text.encode(), durable=False)

    def finish(self, name: str, starts: Sequence[int]) -> None:
        """Join the records of all batches to one file; nothing else of the state is left.

        Args:
            name: The file.
            starts: First samples of the batches, in order.
        """

        def parts() -> Iterator[bytes]:
            for start in starts:
                yield self.folder.read(_part(start))

        self.folder.write_parts(name, parts())
        self.folder.remove(PLACE)


def _part(start: int) -> str:
    return f"{PLACE}/{start:08d}.jsonl"
