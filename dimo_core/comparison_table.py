"""From the numbers of each row and seed to the table, with warnings and pictures."""

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch

from dimo_core.comparison import Comparison
from dimo_core.comparison_files import Comparable, machine_notes
from dimo_core.evaluation import size_notes
from dimo_core.image_files import picture_batches
from dimo_core.lineup import Method
from dimo_core.metric import joined_samples
from dimo_core.pictures import Picture, over_time
from dimo_core.protocols import digest
from dimo_core.table import Kind, Row, Table

Cells = Sequence[Sequence[Mapping[str, Any]]]
"""The numbers of each method and seed."""


def result_of(
    comparison: Comparison, methods: Sequence[Method], cells: Cells, images: str | None
) -> Comparable:
    """The table of a comparison, with real data and pictures from files if there are any.

    Args:
        comparison: What drew the rows.
        methods: The rows.
        cells: Their numbers.
        images: Folder of pictures that are judged too.
    """
    protocol, facts = comparison.protocol, comparison.facts()
    of = digest(facts)
    rows = [_row(method, found, of) for method, found in zip(methods, cells, strict=True)]
    widths = [found["width"] for cell in cells for found in cell]
    if images is not None:
        found = _images(comparison, images)
        rows.append(_only(found, images, of, "images"))
        widths.append(found["width"])
    if (floor := comparison.floor()) is not None:
        rows.append(_only(floor, "real data", of, "real"))
    judge = comparison.judge
    table = Table(
        rows=tuple(rows),
        shown=protocol.shown,
        better=judge.better,
        protocol={"digest": of, **facts},
        notes=(
            *size_notes(max(widths, default=0), rows, "--samples"),
            *machine_notes({f"{i}": each["machine"] for i, each in enumerate(chain(*cells))}),
            *judge.notes,
        ),
    )
    return Comparable(
        table=table,
        protocols={of: facts},
        machine=comparison.machine,
        cells=[
            {"row": method.name, "seed": seed, **{k: v for k, v in found.items() if k != "shown"}}
            for method, each in zip(methods, cells, strict=True)
            for seed, found in zip(protocol.seeds, each, strict=True)
        ],
        pictures=_grid(comparison, methods, cells),
    )


def _row(method: Method, found: Sequence[Mapping[str, Any]], of: str) -> Row:
    """The mean over seeds."""
    names = dict.fromkeys(name for each in found for name in each["metrics"])
    values = {name: [float(each["metrics"].get(name, torch.nan)) for each in found] for name in names}
    first = found[0]
    return Row(
        name=method.name,
        kind=method.kind,
        steps=method.steps,
        sampling=method.sampling,
        series=method.series,
        temperature=method.temperature,
        passes=max(each["passes"] for each in found),
        samples=first["samples"],
        seeds=len(found),
        seconds=sum(each["seconds"] for each in found),
        decoding=sum(each["decoding"] for each in found),
        parameters=first["parameters"],
        metrics={name: statistics.fmean(each) for name, each in values.items()},
        spread={
            name: statistics.stdev(each)
            for name, each in values.items()
            if len(each) > 1 and all(map(math.isfinite, each))
        },
        intervals=_edges(first) if len(found) == 1 else {},
        protocol=of,
    )


def _only(found: Mapping[str, Any], name: str, of: str, kind: Kind) -> Row:
    """A row that nobody drew."""
    return Row(
        name=name,
        kind=kind,
        samples=found["samples"],
        metrics=found["metrics"],
        intervals=_edges(found),
        protocol=of,
    )


def _edges(found: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    return {name: (low, high) for name, (low, high) in found["intervals"].items()}


def _images(comparison: Comparison, url: str) -> dict[str, Any]:
    """The numbers of a folder of pictures; read anew each time, since it may have changed."""
    batches = picture_batches(url, comparison.teacher.conditioning, comparison.batch_size)
    samples = joined_samples([comparison.judge.reduced(batch) for batch in batches])
    return comparison.judged(samples)


def _grid(comparison: Comparison, methods: Sequence[Method], cells: Cells) -> dict[str, Picture]:
    """One row of pictures for each method, of the same conditions and draws."""
    shown = {m.name: found[0]["shown"] for m, found in zip(methods, cells, strict=True) if found[0]["shown"]}
    if not shown:
        return {}
    teacher, raw = comparison.teacher, comparison.shown_conditions()
    c = teacher.encode_conditions(raw)
    with torch.no_grad():
        previews = {name: teacher.preview(torch.tensor(tokens), c) for name, tokens in shown.items()}
    names = [teacher.describe(each) for each in raw]
    return {f"The same conditions and draws: {', '.join(names)}": over_time(previews, names, len(raw))}
