"""Samples that are kept as files: pictures, or lines; of an evaluation, in a folder for each row."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from dimo_core.errors import UsageError
from dimo_core.evaluation.store import Drawn, Store
from dimo_core.files.folder import Folder
from dimo_core.files.images import image_jpeg, image_png
from dimo_core.teacher import Teacher

OF_SEED = re.compile(r"seed-(-?\d+)(\.json)?")
"""Folder and record of a seed, within the folder of its row."""


@attrs.frozen(kw_only=True)
class KeptSamples:
    """Samples in a folder.

    Attributes:
        folder: Where.
        teacher: Makes lines of what decodes to no pictures.
        name: The file of a picture by number; ``.png`` or ``.jpg``.
    """

    folder: Folder
    teacher: Teacher
    name: Callable[[int], str] = "{:05d}.png".format

    def there(self, span: range) -> bool:
        """Whether these samples are kept."""
        if "decode" in self.teacher.capabilities:
            return all(self.folder.exists(self.name(i)) for i in span)
        return self.folder.exists(_lines(span.start))

    def keep(self, batch: Drawn) -> None:
        """Write a batch."""
        if batch.images is None:
            self.folder.write(_lines(batch.start), lines_of(batch, self.teacher), durable=False)
            return
        for i, image in enumerate(batch.images, batch.start):
            name = self.name(i)
            data = image_jpeg(image) if name.endswith(".jpg") else image_png(image)
            self.folder.write(name, data, durable=False)


def _as_file(name: str) -> str:
    return re.sub(r"[^\w.=-]+", "-", name).strip("-")


@attrs.frozen
class RowFolder:
    """Where the samples of one row and seed are kept.

    Attributes:
        root: The folder of all rows.
        row: The row, after which its folder is named.
        seed: The seed, where there are several: its folder is within that of the row.
    """

    root: Folder
    row: str = attrs.field(converter=_as_file)
    seed: int | None

    @property
    def home(self) -> Folder:
        """Where its folder lies, and the record of whose samples are in it."""
        return self.root if self.seed is None else self.root.sub(self.row)

    @property
    def stem(self) -> str:
        """Name of both."""
        return self.row if self.seed is None else f"seed-{self.seed}"

    def samples(self, teacher: Teacher) -> KeptSamples:
        """What is in it."""
        return KeptSamples(folder=self.home.sub(self.stem), teacher=teacher)

    def claim(self, facts: Mapping[str, Any]) -> None:
        """Make this the folder of one row, and of nothing else.

        Args:
            facts: What decides its samples.

        Raises:
            UsageError: when others are in it: they would be mixed, or taken for these.
        """
        self._refuse_others()
        record, place = f"{self.stem}.json", self.home.sub(self.stem)
        if (place.names() and not self.home.exists(record)) or Store(self.home).claim(record, facts):
            raise UsageError(
                f"{place.url} holds samples that were drawn otherwise, and would be mixed with those "
                "of this row. Choose another --keep-samples, or remove the old ones."
            )

    def _refuse_others(self) -> None:
        """Samples of one seed and folders of several do not go together: who reads one reads them all."""
        place, record, several = self.root.sub(self.row), f"{self.row}.json", self.seed is not None
        names = [name for name in place.names() if not name.startswith(".")]
        others = [name for name in names if bool(OF_SEED.fullmatch(name)) != several]
        others += [record] if several and self.root.exists(record) else []
        if others:
            what, wanted = ("samples of one seed", "folders of several seeds")[:: 1 if several else -1]
            raise UsageError(
                f"{place.url} is of {what} ({others[0]}), and {wanted} would be mixed with them. Choose "
                "another --keep-samples, or remove the old ones."
            )


def lines_of(batch: Drawn, teacher: Teacher) -> bytes:
    """The samples of a batch as lines of text."""
    c = teacher.encode_conditions(list(batch.samples.conditions))
    preview = teacher.preview(batch.tokens, c)
    return "".join(f"{line}\n" for line in preview.lines or ()).encode()


def _lines(start: int) -> str:
    return f"{start:05d}.txt"
