"""The files of ``dimo sample``: pictures or lines, and what they are, written as they are drawn."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from jaxtyping import UInt8
from torch import Tensor

from dimo_core.errors import UsageError
from dimo_core.evaluation.drawing import Drawing, DrawnBatch
from dimo_core.files.folder import Folder
from dimo_core.files.images import RECORDS, image_jpeg, image_png
from dimo_core.files.weights import sha256
from dimo_core.report.sheets import sheet
from dimo_core.teacher import Preview

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

        self.folder.write(name, parts())
        self.folder.remove(PLACE)


def _part(start: int) -> str:
    return f"{PLACE}/{start:08d}.jsonl"


LINES = "samples.txt"

SHOWN = 100
"""The most samples that ``grid.png`` shows."""

SHEET = 2**24
"""The most pixels of the samples that ``grid.png`` shows; larger pictures are shown in smaller number."""


class SampleFiles:
    """Writes samples batch by batch; only what ``grid.png`` shows stays in memory.

    Args:
        state: The folder, and what of it is there.
        drawing: How samples are drawn.
        raw: The condition of each sample.
        files: The picture of each sample, relative to the folder; ``.jpg`` or ``.png``.
        facts: What every line of ``samples.jsonl`` says.
    """

    def __init__(
        self,
        state: Unfinished,
        drawing: Drawing,
        raw: Sequence[Any],
        files: Sequence[str],
        facts: Mapping[str, Any],
    ) -> None:
        self.state, self.folder, self.drawing, self.teacher = state, state.folder, drawing, drawing.teacher
        self.raw, self.files, self.facts = raw, files, facts
        self._shown: list[UInt8[Tensor, "N C H W"]] = []
        self._lines: list[str] = []

    def begin(self, model: Mapping[str, Any]) -> Iterator[DrawnBatch]:
        """Start, or find the batches that were drawn before; their pictures are not read.

        Args:
            model: What the samples are drawn from.

        Raises:
            UsageError: when the folder holds samples of another request.
        """
        wanted = json.dumps([list(self.raw), list(self.files)], default=str)
        self.state.begin(
            {
                "model": model,
                **self.facts,
                "samples": len(self.raw),
                "conditions": sha256(wanted.encode()),
                "batch_size": self.drawing.batch_size,
                "device": self.drawing.device.type,
            }
        )
        for start in self.drawing.starts(len(self.raw)):
            records = self.state.records(start)
            if not records or not all(r["file"] == LINES or self.folder.exists(r["file"]) for r in records):
                break
            tokens = torch.tensor([record["tokens"] for record in records])
            passes = records[0]["passes"]
            batch = DrawnBatch(start=start, tokens=tokens, images=None, passes=passes, seconds=0.0)
            if self._room(batch) or "decode" not in self.teacher.capabilities:
                self._show(self.drawing.decoded(self.raw, batch))
            yield batch

    def take(self, batch: DrawnBatch) -> None:
        """Write the pictures of a batch, or keep its lines."""
        count = len(batch.tokens)
        raw = self.raw[batch.start : batch.start + count]
        files = self.files[batch.start : batch.start + count]
        self._show(batch)
        if batch.images is None:
            files = [LINES] * count
        else:
            for file, image in zip(files, batch.images, strict=True):
                data = image_jpeg(image) if file.endswith(".jpg") else image_png(image)
                self.folder.write(file, data, durable=False)
        records = [
            {
                "file": file,
                "index": batch.start + i,
                "condition": self.teacher.describe(condition),
                **self.facts,
                "passes": batch.passes,
                "tokens": tokens,
            }
            for i, (file, condition, tokens) in enumerate(zip(files, raw, batch.tokens.tolist(), strict=True))
        ]
        self.state.keep(batch.start, records)

    def finish(self, extras: Mapping[str, bytes]) -> list[str]:
        """Write the rest; ``samples.jsonl`` comes last. Returns all files."""
        written = dict(extras)
        if self._lines:
            written[LINES] = "".join(f"{line}\n" for line in self._lines).encode()
        else:
            images = torch.cat(self._shown)
            names = [self.teacher.describe(condition) for condition in self.raw[: len(images)]]
            order = sorted(range(len(images)), key=lambda i: names.index(names[i]))
            written["grid.png"] = sheet(Preview(images=images[order]), [names[i] for i in order]).data
        for name, data in written.items():
            self.folder.write(name, data)
        self.state.finish(RECORDS, self.drawing.starts(len(self.raw)))
        pictures = [] if self._lines else self.files
        return [self.folder.path(name) for name in (*pictures, *written, RECORDS)]

    def _room(self, batch: DrawnBatch) -> bool:
        """Whether ``grid.png`` shows any of a batch."""
        if not self._shown:
            return batch.start == 0
        return sum(map(len, self._shown)) < _most(self._shown[0])

    def _show(self, batch: DrawnBatch) -> None:
        """Keep what is shown of a batch: pictures, as far as there is room, or lines."""
        if batch.images is None:
            raw = self.raw[batch.start : batch.start + len(batch.tokens)]
            preview = self.teacher.preview(batch.tokens, self.teacher.encode_conditions(list(raw)))
            self._lines += preview.lines or ()
        elif self._room(batch):
            self._shown.append(batch.images[: _most(batch.images) - sum(map(len, self._shown))])


def _most(images: UInt8[Tensor, "N C H W"]) -> int:
    """So many pictures of this size are shown."""
    return min(SHOWN, max(1, SHEET // images[0, 0].numel()))
