"""Samples that are kept as files: pictures, or lines; of an evaluation, in a folder for each row."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from dimo_core.errors import UsageError
from dimo_core.evaluation.store import Drawn, Store
from dimo_core.files.folder import Folder
from dimo_core.files.images import image_jpeg, image_png
from dimo_core.files.weights import sha256
from dimo_core.teacher import Teacher

LINES = "{:05d}.txt"
"""The file of a batch of lines, by its first sample."""

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
        """Whether files of these samples are there."""
        return all(map(self.folder.exists, self._names(span)))

    def _names(self, span: range) -> list[str]:
        pictures = "decode" in self.teacher.capabilities
        return [self.name(i) for i in span] if pictures else [LINES.format(span.start)]

    def holds(self, batch: Drawn) -> bool:
        """Whether a batch is kept as ``keep`` wrote it; its record has the digest of the files."""
        span = range(batch.start, batch.start + len(batch.samples))
        return self.there(span) and batch.kept == sha256(b"".join(map(self.folder.read, self._names(span))))

    def keep(self, batch: Drawn) -> str:
        """Write a batch; returns the digest of its files."""
        names = self._names(range(batch.start, batch.start + len(batch.samples)))
        if batch.images is None:
            files = [lines_of(batch, self.teacher)]
        else:
            pictures = zip(names, batch.images, strict=True)
            files = [image_jpeg(p) if name.endswith(".jpg") else image_png(p) for name, p in pictures]
        for name, data in zip(names, files, strict=True):
            self.folder.write(name, data, durable=False)
        return sha256(b"".join(files))


def claimed(
    root: Folder, name: str, seed: int | None, facts: Mapping[str, Any], teacher: Teacher
) -> KeptSamples:
    """The folder of one row and seed, and of nothing else from now on.

    Args:
        root: The folder of all rows.
        name: The row, after which its folder is named.
        seed: The seed, where there are several: its folder is within that of the row.
        facts: What decides its samples.
        teacher: Makes lines of what decodes to no pictures.

    Raises:
        UsageError: when others are in it: they would be mixed, or taken for these.
    """
    row = re.sub(r"[^\w.=-]+", "-", name).strip("-")
    _refuse_others(root, row, seed is not None)
    home, stem = (root, row) if seed is None else (root.sub(row), f"seed-{seed}")
    place, record = home.sub(stem), f"{stem}.json"
    if (place.names() and not home.exists(record)) or Store(home).claim(record, facts):
        raise UsageError(
            f"{place.url} holds samples that were drawn otherwise, and would be mixed with those "
            "of this row. Choose another --keep-samples, or remove the old ones."
        )
    return KeptSamples(folder=place, teacher=teacher)


def _refuse_others(root: Folder, row: str, several: bool) -> None:
    """Samples of one seed and folders of several do not go together: who reads one reads them all."""
    place, record = root.sub(row), f"{row}.json"
    names = [name for name in place.names() if not name.startswith(".")]
    others = [name for name in names if bool(OF_SEED.fullmatch(name)) != several]
    others += [record] if several and root.exists(record) else []
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
