"""Quality against what it costs: sampling steps, forward passes, seconds; and the sampling temperature."""

import math
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator

from dimo_core.evaluation.table import Row, Table
from dimo_core.report.plots import (
    COLOURS,
    QUIET,
    between,
    directed,
    legend,
    panels,
    png,
    spread,
    spread_of,
    styled,
    ticked,
)

MOST = 6
"""The most metrics that are drawn."""


def quality_plots(table: Table) -> dict[str, bytes]:
    """PNG files by name: every shown metric by steps; in a comparison by passes, seconds and temperature.

    Args:
        table: A result table; without sampled rows or metrics to show there is no plot.
    """
    drawn = [row for row in table.rows if row.kind in ("teacher", "generator")]
    names = [name for name in table.metrics if name in (*table.shown, *table.better)][:MOST]
    if not drawn or not names:
        return {}
    if not table.compares:
        return {"quality": _figure(table, names, drawn, lambda row: float(row.steps), "sampling steps")}
    passes = _figure(table, names, drawn, lambda row: float(row.passes), "forward passes")
    found = {"quality_by_passes": passes}
    if all(row.each > 0 for row in drawn):
        found["quality_by_seconds"] = _figure(table, names, drawn, lambda row: row.each, "seconds an image")
    swept = [row for row in drawn if row.temperature is not None]
    if len({row.temperature for row in swept}) > 1:
        found["quality_by_temperature"] = _figure(
            table, names, swept, lambda row: row.temperature or 0.0, "sampling temperature", linear=True
        )
    return found


def _figure(
    table: Table,
    names: Sequence[str],
    rows: Sequence[Row],
    x: Callable[[Row], float],
    below: str,
    *,
    linear: bool = False,
) -> bytes:
    figure, every = panels(len(names))
    for axes, name in zip(every, names, strict=True):
        finite = [row for row in table.rows if math.isfinite(row.metrics.get(name, math.nan))]
        known = [row for row in rows if row in finite]
        real = [row.metrics[name] for row in finite if row.kind == "real"]
        _curves(axes, name, known, x, joined=linear)
        for value in real:
            axes.axhline(value, color=QUIET, linestyle=(0, (4, 3)), linewidth=1, label="real data")
        values = [*(row.metrics[name] for row in known), *real]
        styled(axes, directed(name, table), below, spread_of(name, values, table))
        if not linear:
            _logarithmic(axes, [x(row) for row in known])
    legend(figure, every)
    return png(figure)


def _curves(axes: Axes, name: str, rows: Sequence[Row], x: Callable[[Row], float], *, joined: bool) -> None:
    """One curve a series (of generators points only, unless ``joined``), with error bars where known."""
    series: dict[str, list[Row]] = {}
    for row in rows:
        series.setdefault(row.series or row.sampling or row.kind, []).append(row)
    for i, (label, members) in enumerate(series.items()):
        members.sort(key=x)
        generator = members[0].kind == "generator"
        axes.errorbar(
            [x(row) for row in members],
            [row.metrics[name] for row in members],
            yerr=_bars(name, members),
            fmt=("D-" if joined else "D") if generator else "o-",
            color=COLOURS[i % len(COLOURS)],
            markersize=7 if generator else 4.5,
            linewidth=1.4,
            elinewidth=1,
            label=label,
        )


def _bars(name: str, rows: Sequence[Row]) -> list[list[float]] | None:
    """How far the error bars reach down and up; None where nothing is known."""
    down, up = [], []
    for row in rows:
        low = high = row.metrics[name]
        if name in row.intervals:
            low, high = row.intervals[name]
        elif name in row.spread:
            low, high = low - row.spread[name], high + row.spread[name]
        down.append(max(0.0, row.metrics[name] - low))
        up.append(max(0.0, high - row.metrics[name]))
    return [down, up] if any(down) or any(up) else None


def _logarithmic(axes: Axes, values: Sequence[float]) -> None:
    axes.set_xscale("log")
    counts = sorted({int(value) for value in values if value == int(value)})
    whole = len(counts) == len(set(values)) and len(counts) <= 8
    ticked(axes.xaxis, FixedLocator(counts) if whole else between(spread(values)))
