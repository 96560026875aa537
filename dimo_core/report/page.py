"""``report.html``: one page that needs nothing but itself. Every text in it is escaped."""

import struct
from base64 import b64encode
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any

import attrs

from dimo_core.evaluation.numbers import aligned
from dimo_core.evaluation.table import Table
from dimo_core.files.folder import Folder
from dimo_core.options import flat
from dimo_core.report.sheets import Sheet
from dimo_core.texts import masked, printable

NAME = "report.html"
TILES = 4


@attrs.frozen(kw_only=True)
class Report:
    """What a page shows, from top to bottom; whatever is empty is left out.

    Attributes:
        title: Heading.
        lead: A sentence below it.
        facts: Short facts by name, such as the command and versions.
        table: The result table.
        pictures: Sheets of samples by caption.
        plots: PNG files by the names that ``plots`` gives them.
        config: The resolved configuration.
        running: Whether the run goes on: the page loads itself anew then.
    """

    title: str
    lead: str = ""
    facts: Mapping[str, str] = attrs.field(factory=dict)
    table: Table | None = None
    pictures: Mapping[str, Sheet] = attrs.field(factory=dict)
    plots: Mapping[str, bytes] = attrs.field(factory=dict)
    config: Mapping[str, Any] = attrs.field(factory=dict)
    running: bool = False

    def html(self) -> str:
        """The whole page."""
        from jinja2 import Environment  # here, because no step of a run has to wait for it

        quality = {name: data for name, data in self.plots.items() if name.startswith("quality")}
        environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        environment.globals |= {"size": _size, "base64": _base64, "lines": _lines}
        page = (files("dimo_core.report") / "page.html").read_text(encoding="utf-8")
        return environment.from_string(page).render(
            report=self,
            table=self.table,
            tiles=_tiles(self.table) if self.table else [],
            quality=quality,
            curves={name: data for name, data in self.plots.items() if name not in quality},
        )


def write_report(folder: Folder, report: Report) -> str:
    """Write ``report.html`` and its plots into a folder; returns its path."""
    for name, data in report.plots.items():
        folder.write(f"plots/{name}.png", data)
    folder.write(NAME, masked(report.html()).encode())
    return folder.path(NAME)


def sheet_names(folder: Folder) -> list[str]:
    """The sheets that a run left in ``samples/`` of its folder, in order of steps."""
    return [name for name in folder.sub("samples").names() if name.startswith("step_")]


def sheets_over_time(folder: Folder, most: int = 4) -> dict[str, Sheet]:
    """The sheets that a run left in ``samples/``, by step: the first, the last, and some between.

    Args:
        folder: The run folder.
        most: How many to take.
    """
    names = sheet_names(folder)
    count = min(most, len(names))
    chosen = [names[round(i * (len(names) - 1) / max(1, count - 1))] for i in range(count)]
    steps = {f"step {int(PurePosixPath(name).stem.removeprefix('step_'))}": name for name in chosen}
    return {
        step: Sheet(folder.read("samples", name), PurePosixPath(name).suffix) for step, name in steps.items()
    }


def _tiles(table: Table) -> list[tuple[str, str, str]]:
    """The numbers of a lone generator, each beside that of the teacher in its most steps."""
    generators = [row for row in table.rows if row.kind == "generator"]
    teacher = max((row for row in table.rows if row.kind == "teacher"), key=lambda r: r.steps, default=None)
    if len(generators) != 1:
        return []
    generator, tiles = generators[0], []
    for name in [name for name in table.metrics if name in generator.metrics][:TILES]:
        own, other = aligned([generator.metrics[name], teacher.metrics.get(name) if teacher else None])
        tiles.append((name, own, f"{teacher.name}: {other}" if teacher else ""))
    if teacher is not None and generator.passes:
        fewer = f"{teacher.passes / generator.passes:g}x"
        tiles.append(("fewer forward passes", fewer, f"{generator.passes} instead of {teacher.passes}"))
    return tiles


def _base64(data: bytes) -> str:
    return b64encode(data).decode()


def _size(png: bytes) -> tuple[int, int]:
    """Width and height, from the header."""
    width, height = struct.unpack_from(">II", png, 16)
    return width, height


def _lines(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Nested values as text, by dotted name."""
    for name, value in flat(values).items() if values else ():
        if isinstance(value, list | tuple) and any(isinstance(inner, Mapping) for inner in value):
            yield from _lines({f"{name}.{i}": inner for i, inner in enumerate(value)})
        elif isinstance(value, float):
            yield name, f"{value:g}"
        else:
            yield name, "none" if value is None else printable(str(value))
