"""Curves of a run, from metrics.jsonl, and quality against what it costs.

Drawn with matplotlib's object interface: nothing global is set, and no display is needed. Its figures are
imported when the first is drawn, which no step of a run has to wait for.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any

from dimo_core.evaluation.table import Row, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

INK, QUIET, LINE, PAPER = "#22252a", "#6b7078", "#e3e4e1", "#fbfbf9"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#a3588c", "#56b4e9", "#8a7000")
SILENT = frozenset({"step", "seconds"})
PANEL, ACROSS, MOST = (3.4, 2.5), 3, 9  # inches a small panel takes, panels a row, panels a figure
METRICS = 6  # the most metrics that are drawn against what they cost
WIDE = 10  # largest over smallest value, from which on an axis is logarithmic
NAMES = {"entropy_theta": "generator, p_θ", "entropy_phi": "teacher, p_φ"}

Series = tuple[list[float], list[float]]
"""Steps and values."""


GROUPS = (
    ("losses", "losses", "loss"),
    ("gradient_norms", "gradient norms before clipping", "grad_norm"),
    ("divergence", "divergence of teacher and auxiliary, a masked token", "divergence"),
    ("entropy", "entropy at masked tokens, nats", "entropy"),
    ("logit_scale", "scale of the generator's logits", "logit_scale"),
)
"""Scalars that share one plot: its file, its heading, and what is in their names."""


def plots(lines: Sequence[Mapping[str, Any]], table: Table | None = None) -> dict[str, bytes]:
    """Every plot for which there is data, as PNG files by name.

    Args:
        lines: Scalars by name, each with its ``step``: the lines of metrics.jsonl.
        table: The result table, for the order of metrics and which direction is good.
    """
    found: dict[str, bytes] = {}
    series = series_of(lines)
    judged = {
        name.removeprefix("eval/"): series.pop(name) for name in sorted(series) if name.startswith("eval/")
    }
    if judged:
        known = table or Table(rows=())
        order = [name for name in known.metrics if name in judged]
        order += [name for name in judged if name not in order]
        found["metrics"] = _multiples({_directed(name, known): judged[name] for name in order}, marker="o")
    for group, title, part in GROUPS:
        members = {name: series.pop(name) for name in sorted(series) if part in name}
        if members:
            found[group] = _curves(group, title, members)
    if series:
        found["others"] = _multiples(dict(sorted(series.items())))
    return found


def quality_plots(table: Table) -> dict[str, bytes]:
    """PNG files by name: every shown metric by steps; in a comparison by passes, seconds and temperature.

    Args:
        table: A result table; without sampled rows or metrics to show there is no plot.
    """
    drawn = [row for row in table.rows if row.kind in ("teacher", "generator")]
    names = [name for name in table.metrics if name in (*table.shown, *table.better)][:METRICS]
    if not drawn or not names:
        return {}
    against = partial(_quality, table, names)
    if not table.compares:
        return {"quality": against(drawn, lambda row: row.steps, "sampling steps")}
    found = {"quality_by_passes": against(drawn, lambda row: row.passes, "forward passes")}
    if all(row.each > 0 for row in drawn):
        found["quality_by_seconds"] = against(drawn, lambda row: row.each, "seconds an image")
    swept = [row for row in drawn if row.temperature is not None]
    if len({row.temperature for row in swept}) > 1:
        found["quality_by_temperature"] = against(
            swept, lambda row: row.temperature or 0.0, "sampling temperature", linear=True
        )
    return found


def _quality(
    table: Table,
    names: Sequence[str],
    rows: Sequence[Row],
    x: Callable[[Row], float],
    below: str,
    *,
    linear: bool = False,
) -> bytes:
    """Every metric in a panel against ``x``; one legend for all above them."""
    figure, every = _panels(len(names))
    handles: dict[str, Any] = {}
    for axes, name in zip(every, names, strict=True):
        finite = [row for row in table.rows if math.isfinite(row.metrics.get(name, math.nan))]
        known = [row for row in rows if row in finite]
        real = [row.metrics[name] for row in finite if row.kind == "real"]
        _against(axes, name, known, x, joined=linear)
        for value in real:
            axes.axhline(value, color=QUIET, linestyle=(0, (4, 3)), linewidth=1, label="real data")
        values = [*(row.metrics[name] for row in known), *real]
        _styled(axes, _directed(name, table), below, spread_of(name, values, table))
        if not linear:
            axes.set_xscale("log")
            costs = {float(x(row)) for row in known}
            whole = len(costs) <= 8 and all(cost == int(cost) for cost in costs)
            _ticked(axes.xaxis, spread([*costs]), sorted(costs) if whole else None)
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    where: dict[str, Any] = {"loc": "outside upper left", "ncols": 3}
    figure.legend(handles.values(), handles.keys(), **where, frameon=False, labelcolor=INK, fontsize=9)
    return _png(figure)


def _against(
    axes: "Axes", name: str, rows: Sequence[Row], x: Callable[[Row], float], *, joined: bool
) -> None:
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


def _bars(name: str, rows: Sequence[Row]) -> list[tuple[float, ...]] | None:
    """How far the error bars reach down and up; None where nothing is known."""
    reach = []
    for row in rows:
        value, deviation = row.metrics[name], row.spread.get(name, 0.0)
        low, high = row.intervals.get(name, (value - deviation, value + deviation))
        reach.append((max(0.0, value - low), max(0.0, high - value)))
    return list(zip(*reach, strict=True)) if any(map(any, reach)) else None


def _directed(name: str, table: Table) -> str:
    """A metric, and which direction is good."""
    return f"{name} ({table.better[name]} is better)" if name in table.better else name


def _curves(group: str, title: str, members: Mapping[str, Series]) -> bytes:
    """Several scalars in one plot; its axis is logarithmic where they spread widely, unless of entropies."""
    figure, [axes] = _panels(1, (7.0, 3.2))
    for (name, series), colour in zip(members.items(), cycle(COLOURS), strict=False):
        _curve(axes, series, colour, NAMES.get(name, name.removeprefix("grad_norm_")))
    values = [value for _, ys in members.values() for value in ys]
    if len(members) == 1 and group not in members:
        title = f"{title}: {next(iter(members))}"
    _styled(axes, title, "step", 0.0 if group == "entropy" else spread(values))
    if len(members) > 1:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return _png(figure)


def _multiples(members: Mapping[str, Series], marker: str = "") -> bytes:
    """One small plot for each scalar."""
    from matplotlib.ticker import MaxNLocator

    members = dict(list(members.items())[:MOST])
    figure, every = _panels(len(members))
    for axes, (name, series) in zip(every, members.items(), strict=True):
        _curve(axes, series, COLOURS[0], name, marker)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        _styled(axes, name, "step", spread(series[1]))
    return _png(figure)


def _curve(axes: "Axes", series: Series, colour: str, label: str, marker: str = "") -> None:
    """A curve; where it has many points, pale, with its moving average in full colour."""
    steps, values = series
    if len(values) < 40:
        marker = marker or ("o" if len(values) == 1 else "")
        axes.plot(steps, values, color=colour, label=label, marker=marker)
        return
    axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(steps, _smooth(values), color=colour, label=label)


def _smooth(values: Sequence[float]) -> list[float]:
    """Mean of the values so far, weighted towards the last fiftieth of the curve."""
    keep = 1 - 50 / (len(values) + 50)
    total = weight = 0.0
    smooth = []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        smooth.append(total / weight)
    return smooth


def series_of(lines: Sequence[Mapping[str, Any]]) -> dict[str, Series]:
    """Steps and finite values of each scalar that ever changes or is not zero."""
    series: dict[str, Series] = {}
    for line in lines:
        for name, value in line.items():
            if name not in SILENT and isinstance(value, int | float) and math.isfinite(value):
                steps, values = series.setdefault(name, ([], []))
                steps.append(float(line["step"]))
                values.append(float(value))
    return {name: s for name, s in series.items() if any(s[1])}


def spread(values: Sequence[float]) -> float:
    """The largest value as a multiple of the smallest; 0 unless all are positive."""
    return max(values) / min(values) if values and min(values) > 0 else 0.0


def spread_of(name: str, values: Sequence[float], table: Table) -> float:
    """The spread of a metric; 0 if larger is better: shares and scores are read on an even axis."""
    return 0.0 if table.better.get(name) == "larger" else spread(values)


def _ticked(axis: "Axis", ratio: float, at: Sequence[float] | None = None) -> None:
    """Plain numbers at a logarithmic axis, and no ticks between them.

    Args:
        axis: Of one panel.
        ratio: The largest value as a multiple of the smallest.
        at: Where; None for 1, 2 and 5 times the powers of ten, or these alone where there are many.
    """
    from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

    powers = LogLocator(subs=(1, 2, 5) if ratio < 300 else (1,))
    axis.set_major_locator(powers if at is None else FixedLocator(at))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")


def _panels(count: int, size: tuple[float, float] = PANEL) -> "tuple[Figure, list[Axes]]":
    """A figure of panels of so many inches, three a row."""
    from matplotlib.figure import Figure

    across = min(count, ACROSS)
    down = -(-count // across)
    figure = Figure(figsize=(size[0] * across, size[1] * down), facecolor=PAPER, layout="constrained")
    return figure, [figure.add_subplot(down, across, i + 1) for i in range(count)]


def _styled(axes: "Axes", title: str, below: str, ratio: float) -> None:
    """The house style; an axis of values that spread widely is logarithmic.

    Args:
        axes: Of one panel.
        title: Its heading.
        below: What its x axis counts.
        ratio: The largest value as a multiple of the smallest.
    """
    axes.set_facecolor(PAPER)
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel(below, fontsize=9, color=QUIET)
    if ratio > WIDE:
        axes.set_yscale("log")
        _ticked(axes.yaxis, ratio)
    axes.tick_params(colors=QUIET, labelsize=8, length=0, which="both")
    axes.grid(True, color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.03)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(QUIET)


def _png(figure: "Figure") -> bytes:
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144)
    return buffer.getvalue()
