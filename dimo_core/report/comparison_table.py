"""From the numbers of each row and seed to the table, with warnings and pictures."""

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import attrs
import torch

from dimo_core import conditions
from dimo_core.evaluation.comparison import Comparison, size_notes
from dimo_core.evaluation.drawing import Method
from dimo_core.evaluation.protocols import digest
from dimo_core.evaluation.reference import picture_batches
from dimo_core.evaluation.table import Origin, Row, Table
from dimo_core.metric import joined_samples
from dimo_core.report.comparison_files import Comparable, warnings
from dimo_core.report.sheets import Sheet, below

REAL = Origin(name="real data", kind="real")
"""Another part of the real data, judged like samples."""

Cells = Sequence[Sequence[Mapping[str, Any]]]
"""The numbers of each method and seed."""


def result_of(
    comparison: Comparison,
    methods: Sequence[Method],
    cells: Cells,
    images: str | None,
    count: int | None = None,
) -> Comparable:
    """The table of a comparison, with real data and pictures from files if there are any.

    Args:
        comparison: What drew the rows.
        methods: The rows.
        cells: Their numbers.
        images: Folder of pictures that are judged too.
        count: How many of them; None for all.
    """
    protocol, facts = comparison.protocol, comparison.facts
    of = digest(facts)
    rows = [row_of(method, found, of) for method, found in zip(methods, cells, strict=True)]
    every: list[Mapping[str, Any]] = list(chain(*cells))
    if images is not None:
        found = _images(comparison, images, count)
        rows.append(row_of(Origin(name=images, kind="images"), [found], of))
        every.append(found)
    if (floor := comparison.floor()) is not None:
        rows.append(row_of(REAL, [floor], of))
    widest = max((each["width"] for each in every), default=0)
    judge = comparison.judge
    table = Table(
        rows=tuple(rows),
        shown=protocol.shown,
        better=judge.better,
        protocol={"digest": of, **facts},
        notes=(
            *size_notes(widest, rows, "--samples", min((each["reference"] for each in every), default=0)),
            *warnings({}, [machine for each in chain(*cells) for machine in each["machines"]]),
            *(_unsure(every) if comparison.intervals else []),
            *judge.notes,
        ),
    )
    return Comparable(
        table=table,
        protocols={of: facts},
        machine=comparison.machine,
        cells=[
            {
                "row": method.name,
                "seed": seed,
                "identity": dict(method.identity),
                **{k: v for k, v in found.items() if k != "shown"},
            }
            for method, each in zip(methods, cells, strict=True)
            for seed, found in zip(protocol.seeds, each, strict=True)
        ],
        pictures=_grid(comparison, methods, cells),
    )


def row_of(origin: Origin, found: Sequence[Mapping[str, Any]], of: str = "") -> Row:
    """A row of the means over seeds.

    Args:
        origin: Where the samples come from.
        found: Their numbers, seed by seed; without costs where nobody drew them.
        of: Digest of the protocol.
    """
    names = dict.fromkeys(name for each in found for name in each["metrics"])
    values = {name: [float(each["metrics"].get(name, torch.nan)) for each in found] for name in names}
    first = found[0]
    return Row(
        **{field.name: getattr(origin, field.name) for field in attrs.fields(Origin)},
        passes=max(each.get("passes", 0) for each in found),
        samples=first["samples"],
        seeds=len(found),
        seconds=sum(each.get("seconds", 0.0) for each in found),
        decoding=sum(each.get("decoding", 0.0) for each in found),
        parameters=first.get("parameters", 0),
        metrics={name: statistics.fmean(each) for name, each in values.items()},
        spread={
            name: statistics.stdev(each)
            for name, each in values.items()
            if len(each) > 1 and all(map(math.isfinite, each))
        },
        intervals=_pooled(found),
        protocol=of,
    )


def _unsure(every: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why rows have no intervals although they were asked for."""
    few = [each for each in every if each["samples"] // 2 <= each["width"]]
    if not few:
        return []
    least = min(few, key=lambda each: int(each["samples"]))
    return [f"no intervals: half of {least['samples']} samples are too few for {least['width']} features"]


def _pooled(found: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Intervals of the mean over seeds: they shrink with the root of their number."""
    every = [each.get("intervals", {}) for each in found]
    intervals = {}
    for name in every[0]:
        if all(name in edges for edges in every):
            values = [each["metrics"][name] for each in found]
            root, mean = math.sqrt(len(found)), statistics.fmean(values)
            below = statistics.fmean(v - edges[name][0] for v, edges in zip(values, every, strict=True))
            above = statistics.fmean(edges[name][1] - v for v, edges in zip(values, every, strict=True))
            intervals[name] = (mean - below / root, mean + above / root)
    return intervals


def _images(comparison: Comparison, url: str, count: int | None) -> dict[str, Any]:
    """The numbers of a folder of pictures; read anew each time, since it may have changed."""
    conditioning, source = comparison.teacher.conditioning, comparison.conditions
    batches = picture_batches(url, conditioning, comparison.batch_size, source, count)
    samples = joined_samples([comparison.judge.reduced(batch) for batch in batches])
    return comparison.judged(samples)


def _grid(comparison: Comparison, methods: Sequence[Method], cells: Cells) -> dict[str, Sheet]:
    """One row of pictures for each method, of the same conditions and draws."""
    shown = {m.name: found[0]["shown"] for m, found in zip(methods, cells, strict=True) if found[0]["shown"]}
    if not shown:
        return {}
    teacher, raw = comparison.teacher, comparison.shown_conditions()
    device = comparison.device
    c = conditions.to(teacher.encode_conditions(raw), device)
    with torch.no_grad():
        x = {name: torch.tensor(tokens, device=device) for name, tokens in shown.items()}
        previews = {name: teacher.preview(tokens, c) for name, tokens in x.items()}
    names = [teacher.describe(each) for each in raw]
    return {f"The same conditions and draws: {', '.join(names)}": below(previews, names)}
