"""The files of a comparison: results as JSON, CSV and Markdown, plots, a grid, one page with all."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from dimo_core.errors import CheckpointError, UsageError
from dimo_core.evaluation.comparison import COUNTS_DIFFER
from dimo_core.evaluation.protocols import differences
from dimo_core.evaluation.table import Row, Table, finite
from dimo_core.files.folder import Folder
from dimo_core.report.page import Report, write_report
from dimo_core.report.plots import quality_plots
from dimo_core.report.sheets import Sheet
from dimo_core.texts import shown

FORMAT = "dimo-comparison/1"
RESULTS = "results.json"
FIXED = ("name", "kind", "series", "steps", "passes", "temperature", "samples", "seeds", "parameters")


@attrs.frozen(kw_only=True)
class Comparable:
    """A result table, and the protocols of its rows.

    Attributes:
        table: The rows; each names the digest of its protocol.
        protocols: Facts of each protocol by digest.
        machine: Where the seconds were measured.
        cells: The numbers of each row and seed.
        pictures: Sheets of samples by caption.
    """

    table: Table
    protocols: Mapping[str, Mapping[str, Any]]
    machine: Mapping[str, str]
    cells: Sequence[Mapping[str, Any]] = ()
    pictures: Mapping[str, Sheet] = attrs.field(factory=dict)


def publish(result: Comparable, folder: Folder, *, title: str, lead: str, facts: Mapping[str, str]) -> None:
    """Write all files of a comparison.

    Args:
        result: What was found.
        folder: Where.
        title: Heading of the page.
        lead: A sentence below it.
        facts: Short facts for the page, such as the command.
    """
    table = result.table
    data = {
        "format": FORMAT,
        "protocols": {key: dict(value) for key, value in result.protocols.items()},
        "machine": dict(result.machine),
        "cells": [finite(cell) for cell in result.cells],
        **table.to_dict(),
    }
    folder.write("results.csv", csv_text(table).encode())
    notes = "".join(f"\n* {shown(note)}" for note in table.notes)
    folder.write("results.md", f"{table.markdown()}\n{notes}\n".encode())
    for i, picture in enumerate(result.pictures.values()):
        folder.write(f"samples/grid{f'-{i + 1}' if i else ''}{picture.suffix}", picture.data)
    report = Report(
        title=title,
        lead=lead,
        facts={**facts, **result.machine},
        table=table,
        pictures=result.pictures,
        plots=quality_plots(table),
    )
    write_report(folder, report)
    folder.write_json(RESULTS, data)


def csv_text(table: Table) -> str:
    """A line for each row, numbers in full: for spreadsheets and scripts."""
    lines = [_line(row, table.metrics) for row in table.rows]
    file = io.StringIO()
    writer = csv.DictWriter(file, dict.fromkeys(name for line in lines for name in line), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def _line(row: Row, metrics: Sequence[str]) -> dict[str, Any]:
    sampled = row.kind in ("teacher", "generator") and row.each > 0
    line = {name: getattr(row, name) for name in FIXED}
    line["seconds_an_image"] = row.each if sampled else None
    line["images_a_second"] = 1 / row.each if sampled else None
    line["protocol"] = row.protocol
    for name in metrics:
        line[name], line[f"{name}_std"] = row.metrics.get(name), row.spread.get(name)
        line[f"{name}_low"], line[f"{name}_high"] = row.intervals.get(name, (None, None))
    return line


def read_result(path: str) -> Comparable:
    """What ``publish`` wrote.

    Args:
        path: ``results.json``, or its folder; a path or URL.

    Raises:
        UsageError: when there is none, or it is damaged.
    """
    folder, name = Folder(path), RESULTS
    if path.endswith(".json"):
        parent, _, name = path.rpartition("/")
        folder = Folder(parent or ".")
    try:
        data = folder.read_json(name)
        known, reason = data.get("format") == FORMAT, ""
    except (FileNotFoundError, NotADirectoryError):
        known, reason = False, ""
    except CheckpointError as error:
        known, reason = False, f" ({error})"
    if not known:
        raise UsageError(
            f"{path!r} holds no results of `dimo compare` or `dimo evaluate`{reason}. Give their folders, or "
            f"the {RESULTS} in them."
        )
    pictures = {}
    for suffix in (".png", ".txt"):
        if folder.exists("samples", f"grid{suffix}"):
            pictures[path] = Sheet(folder.read("samples", f"grid{suffix}"), suffix)
    return Comparable(
        table=Table.from_dict(data),
        protocols=data["protocols"],
        machine=data["machine"],
        cells=data["cells"],
        pictures=pictures,
    )


def merged(results: Mapping[str, Comparable]) -> Comparable:
    """Several results in one table, with a warning where they do not compare.

    Args:
        results: By the name that rows of one name are told apart by.
    """
    every = list(results.values())
    protocols = {digest: facts for result in every for digest, facts in result.protocols.items()}
    notes = dict.fromkeys(note for result in every for note in result.table.notes)
    kept: list[tuple[str, Row]] = []
    for label, row in ((label, row) for label, result in results.items() for row in result.table.rows):
        if attrs.evolve(row, protocol="") not in [attrs.evolve(r, protocol="") for _, r in kept]:
            kept.append((label, row))
    names = [row.name for _, row in kept]
    rows = [
        attrs.evolve(row, name=f"{row.name} ({label})") if names.count(row.name) > 1 else row
        for label, row in kept
    ]
    differ = len({row.samples for row in rows if row.kind != "real"}) > 1
    return Comparable(
        table=Table(
            rows=tuple(rows),
            shown=tuple(dict.fromkeys(name for result in every for name in result.table.shown)),
            better={name: way for result in every for name, way in result.table.better.items()},
            protocol={key: dict(value) for key, value in protocols.items()},
            notes=(
                *warnings(protocols, [result.machine for result in every]),
                *_drawn_otherwise([row for _, row in kept]),
                *([COUNTS_DIFFER] if differ and COUNTS_DIFFER not in notes else []),
                *notes,
            ),
        ),
        protocols=protocols,
        machine=every[0].machine if len(every) == 1 else {},
        cells=[cell for result in every for cell in result.cells],
        pictures={label: p for label, result in results.items() for p in result.pictures.values()},
    )


def _drawn_otherwise(rows: Sequence[Row]) -> list[str]:
    """Where rows of one name were sampled in different ways, such as with another guidance."""
    notes = []
    for name in dict.fromkeys(row.name for row in rows):
        if different := differences([row.drawn for row in rows if row.name == name]):
            notes.append(f"Rows named {name!r} were drawn otherwise; they differ in {'; '.join(different)}.")
    return notes


def warnings(protocols: Mapping[str, Mapping[str, Any]], machines: Sequence[Mapping[str, str]]) -> list[str]:
    """Why rows do not compare: their numbers, or their seconds.

    Args:
        protocols: Facts by digest.
        machines: Where each row or result was measured.
    """
    found = []
    if different := differences(protocols.values()):
        found.append(
            f"Numbers of different protocols do not compare; these rows differ in {'; '.join(different)}."
        )
    if different := differences(machines):
        found.append(f"Seconds do not compare; they were measured with {'; '.join(different)}.")
    return found
