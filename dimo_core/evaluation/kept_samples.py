"""Samples of an evaluation that are kept: pictures by number, or lines, in a folder for each row."""

import json
import re
from collections.abc import Mapping
from typing import Any

import attrs

from dimo_core.errors import UsageError
from dimo_core.evaluation.drawing import DrawnBatch
from dimo_core.files.folder import Folder
from dimo_core.files.images import image_png
from dimo_core.teacher import Teacher

OF_SEED = re.compile(r"seed-(-?\d+)(\.json)?")
"""Folder and record of a seed, within the folder of its row."""


@attrs.frozen(kw_only=True)
class KeptPictures:
    """The folder of one row and seed.

    Attributes:
        root: The folder of all rows.
        row: Name of the row's folder in it.
        seed: The seed, where there are several: its folder is within that of the row.
        teacher: Makes lines of what decodes to no pictures.
    """

    root: Folder
    row: str
    seed: int | None
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
        row = re.sub(r"[^\w.=-]+", "-", name).strip("-")
        return cls(root=Folder(url), row=row, seed=seed, teacher=teacher)

    @property
    def home(self) -> Folder:
        """Where its folder lies, and the record of whose samples are in it."""
        return self.root if self.seed is None else self.root.sub(self.row)

    @property
    def stem(self) -> str:
        """Name of its folder."""
        return self.row if self.seed is None else f"seed-{self.seed}"

    @property
    def folder(self) -> Folder:
        """Where the samples are."""
        return self.home.sub(self.stem)

    def claim(self, facts: Mapping[str, Any]) -> None:
        """Make this the folder of one row, and of nothing else.

        Args:
            facts: What decides its samples.

        Raises:
            UsageError: when others are in it: they would be mixed, or taken for these.
        """
        self._refuse_others()
        record, wanted = f"{self.stem}.json", json.loads(json.dumps(facts, default=str))
        if self.home.exists(record) and self.home.read_yaml(record) == wanted:
            return
        if self.home.exists(record) or self.folder.names():
            raise UsageError(
                f"{self.folder.url} holds samples that were drawn otherwise, and would be mixed with those "
                "of this row. Choose another --keep-samples, or remove the old ones."
            )
        self.home.write_json(record, wanted)

    def _refuse_others(self) -> None:
        """Samples of one seed and folders of several do not go together: who reads one reads them all."""
        place, record = self.root.sub(self.row), f"{self.row}.json"
        names = [name for name in place.names() if not name.startswith(".")]
        if self.seed is None:
            others, what = [name for name in names if OF_SEED.fullmatch(name)], "folders of several seeds"
        else:
            others, what = [name for name in names if not OF_SEED.fullmatch(name)], "samples of one seed"
            others += [record] if self.root.exists(record) else []
        if others:
            wanted = "samples of one seed" if self.seed is None else "folders of several seeds"
            raise UsageError(
                f"{place.url} is of {what} ({others[0]}), and {wanted} would be mixed with them. Choose "
                "another --keep-samples, or remove the old ones."
            )

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
