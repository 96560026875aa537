"""The tracker ``csv``."""

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from dimo_core.files.folder import Folder
from dimo_core.files.log import Log
from dimo_core.tracker import Tracker

HEAD = ("step", "name", "value")


@attrs.frozen(kw_only=True, slots=False)
class Csv(Tracker):
    """A row for each number: step, name, value. A resumed run goes on where it was.

    Attributes:
        file: Its name in the run folder.
    """

    file: str = "scalars.csv"

    def start(self, folder: str, config: Mapping[str, Any]) -> None:
        """Remember where."""
        vars(self)["log"] = Log(Folder(folder), self.file)
        vars(self)["begun"] = False

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add rows; the first time, those of this step and later ones, of a run that was stopped, go."""
        log: Log = vars(self)["log"]
        if not vars(self)["begun"]:
            log.folder.write(self.file, _text([HEAD, *_before(log.folder, self.file, step)]).encode())
            vars(self)["begun"] = True
        log.write(_text((step, name, value) for name, value in values.items()))

    def picture(self, step: int, name: str, path: str) -> None:
        """Pictures lie in the run folder anyway."""

    def finish(self) -> None:
        """Write what waits."""
        vars(self)["log"].flush()


def _before(folder: Folder, file: str, step: int) -> list[list[str]]:
    rows = list(csv.reader(io.StringIO(folder.read(file).decode()))) if folder.exists(file) else []
    return [row for row in rows[1:] if len(row) == len(HEAD) and int(row[0]) < step]


def _text(rows: Iterable[Iterable[Any]]) -> str:
    made = io.StringIO()
    csv.writer(made, lineterminator="\n").writerows(rows)
    return made.getvalue()
