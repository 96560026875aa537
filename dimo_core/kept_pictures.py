"""Samples of an evaluation that are kept: pictures by number, or lines, in a folder for each row."""

import re

import attrs

from dimo_core.drawing import DrawnBatch
from dimo_core.folder import Folder
from dimo_core.pictures import image_png
from dimo_core.teacher import Teacher


@attrs.frozen(kw_only=True)
class KeptPictures:
    """The folder of one row and seed.

    Attributes:
        folder: Where.
        teacher: Makes lines of what decodes to no pictures.
    """

    folder: Folder
    teacher: Teacher

    @classmethod
    def of(cls, url: str, name: str, seed: int | None, teacher: Teacher) -> "KeptPictures":
        """A folder within ``url`` that is named after the row.

        Args:
            url: The folder of all rows.
            name: The row.
            seed: Its seed, where there are several.
            teacher: The teacher.
        """
        stem = re.sub(r"[^\w.=-]+", "-", name).strip("-")
        return cls(folder=Folder(url).sub(stem, *([] if seed is None else [f"seed-{seed}"])), teacher=teacher)

    def there(self, start: int, count: int) -> bool:
        """Whether the samples from ``start`` on are kept."""
        if "decode" in self.teacher.capabilities:
            return all(self.folder.exists(_picture(i)) for i in range(start, start + count))
        return self.folder.exists(_lines(start))

    def keep(self, batch: DrawnBatch) -> None:
        """Write a batch."""
        if batch.images is None:
            preview = self.teacher.preview(batch.tokens, None)
            lines = "".join(f"{line}\n" for line in preview.lines or ())
            self.folder.write(_lines(batch.start), lines.encode(), durable=False)
            return
        for i, image in enumerate(batch.images, batch.start):
            self.folder.write(_picture(i), image_png(image), durable=False)


def _picture(index: int) -> str:
    return f"{index:05d}.png"


def _lines(start: int) -> str:
    return f"{start:05d}.txt"
