"""The files of ``dimo sample``: pictures or lines, and what they are, written as they are drawn."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from dimo_core.drawing import DrawnBatch
from dimo_core.folder import Folder
from dimo_core.pictures import image_jpeg, image_png, sheet
from dimo_core.teacher import Preview, Teacher

RECORDS = "samples.jsonl"
"""One line a sample; it gets this name when the folder is complete."""

SHOWN = 100
"""The most samples that ``grid.png`` shows."""

SHEET = 2**24
"""The most pixels of the samples that ``grid.png`` shows; larger pictures are shown in smaller number."""


class SampleFiles:
    """Writes samples batch by batch; only what ``grid.png`` shows stays in memory.

    Args:
        folder: Where.
        teacher: For conditions and previews.
        raw: The condition of each sample.
        files: The picture of each sample, relative to the folder; ``.jpg`` or ``.png``.
        facts: What every line of ``samples.jsonl`` says.
    """

    def __init__(
        self,
        folder: Folder,
        teacher: Teacher,
        raw: Sequence[Any],
        files: Sequence[str],
        facts: Mapping[str, Any],
    ) -> None:
        self.folder, self.teacher, self.raw, self.files, self.facts = folder, teacher, raw, files, facts
        self._shown: list[UInt8[Tensor, "N C H W"]] = []
        self._lines: list[str] = []
        self._part = f"{RECORDS}.unfinished"

    def take(self, batch: DrawnBatch) -> None:
        """Write the pictures of a batch, or keep its lines."""
        count = len(batch.tokens)
        raw = self.raw[batch.start : batch.start + count]
        files = self.files[batch.start : batch.start + count]
        if batch.images is None:
            preview = self.teacher.preview(batch.tokens, self.teacher.encode_conditions(list(raw)))
            self._lines += preview.lines or ()
            files = ["samples.txt"] * count
        else:
            for file, image in zip(files, batch.images, strict=True):
                data = image_jpeg(image) if file.endswith(".jpg") else image_png(image)
                self.folder.write(file, data, durable=False)
            room = min(SHOWN, max(1, SHEET // batch.images[0, 0].numel())) - sum(map(len, self._shown))
            self._shown.append(batch.images[: max(0, room)])
        records = [
            json.dumps(
                {
                    "file": file,
                    "index": batch.start + i,
                    "condition": self.teacher.describe(condition),
                    **self.facts,
                    "passes": batch.passes,
                    "tokens": tokens,
                }
            )
            for i, (file, condition, tokens) in enumerate(zip(files, raw, batch.tokens.tolist(), strict=True))
        ]

        self.folder.append(self._part, "".join(f"{record}\n" for record in records))

    def finish(self, extras: Mapping[str, bytes]) -> list[str]:
        """Write the rest; ``samples.jsonl`` gets its name last. Returns all files."""
        written = dict(extras)
        if self._lines:
            written["samples.txt"] = "".join(f"{line}\n" for line in self._lines).encode()
        else:
            images = torch.cat(self._shown)
            names = [self.teacher.describe(condition) for condition in self.raw[: len(images)]]
            order = sorted(range(len(images)), key=lambda i: names.index(names[i]))
            written["grid.png"] = sheet(Preview(images=images[order]), [names[i] for i in order]).data
        for name, data in written.items():
            self.folder.write(name, data)
        self.folder.rename(self._part, RECORDS)
        pictures = [] if self._lines else self.files
        return [self.folder.path(name) for name in (*pictures, *written, RECORDS)]
