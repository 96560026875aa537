"""Curves of a run, from metrics.jsonl.

Drawn with matplotlib's object interface: nothing global is set, and no display is needed.
"""

import io
import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullLocator

from dimo_core.evaluation.table import Table

INK, QUIET, LINE, PAPER = "#22252a", "#6b7078", "#e3e4e1", "#fbfbf9"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#a3588c", "#56b4e9", "#8a7000")
SILENT = frozenset({"step", "seconds"})
PANEL, ACROSS, MOST = (3.4, 2.5), 3, 9  # inches a small panel takes, panels a row, panels a figure
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
    series = _series(lines)
    judged = {
        name.removeprefix("eval/"): series.pop(name) for name in sorted(series) if name.startswith("eval/")
    }
    if judged:
        known = table or Table(rows=())
        order = [name for name in known.metrics if name in judged]
        order += [name for name in judged if name not in order]
        found["metrics"] = _multiples({directed(name, known): judged[name] for name in order}, marker="o")
    for group, title, part in GROUPS:
        members = {name: series.pop(name) for name in sorted(series) if part in name}
        if members:
            found[group] = _curves(group, title, members)
    if series:
        found["others"] = _multiples(dict(sorted(series.items())))
    return found


def directed(name: str, table: Table) -> str:
    """A metric, and which direction is good."""
    return f"{name} ({table.better[name]} is better)" if name in table.better else name


def _curves(group: str, title: str, members: Mapping[str, Series]) -> bytes:
    """Several scalars in one plot; its axis is logarithmic where they spread widely, unless of entropies."""
    figure = Figure(figsize=(7, 3.2), facecolor=PAPER, layout="constrained")
    axes = figure.add_subplot()
    for (name, series), colour in zip(members.items(), cycle(COLOURS), strict=False):
        _curve(axes, series, colour, NAMES.get(name, name.removeprefix("grad_norm_")))
    values = [value for _, ys in members.values() for value in ys]
    if len(members) == 1 and group not in members:
        title = f"{title}: {next(iter(members))}"
    styled(axes, title, "step", 0.0 if group == "entropy" else spread(values))
    if len(members) > 1:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return png(figure)


def _multiples(members: Mapping[str, Series], marker: str = "") -> bytes:
    """One small plot for each scalar."""
    members = dict(list(members.items())[:MOST])
    figure, every = panels(len(members))
    for axes, (name, series) in zip(every, members.items(), strict=True):
        _curve(axes, series, COLOURS[0], name, marker)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        styled(axes, name, "step", spread(series[1]))
    return png(figure)


def _curve(axes: Axes, series: Series, colour: str, label: str, marker: str = "") -> None:
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


def _series(lines: Sequence[Mapping[str, Any]]) -> dict[str, Series]:
    """Steps and finite values of each scalar that ever changes or is not zero."""
    series: dict[str, Series] = {}
    for line in lines:
        for name, value in line.items():
            if name not in SILENT and isinstance(value, int | float) and math.isfinite(value):
                steps, values = series.setdefault(name, ([], []))
                steps.append(float(line["step"]))
                values.append(float(value))
    return {name: s for name, s in series.items() if any(s[1])}


def legend(figure: Figure, every: Sequence[Axes]) -> None:
    """One legend for all panels, above them."""
    handles: dict[str, Any] = {}
    for axes in every:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    where: dict[str, Any] = {"loc": "outside upper left", "ncols": 3}
    figure.legend(handles.values(), handles.keys(), **where, frameon=False, labelcolor=INK, fontsize=9)


def spread(values: Sequence[float]) -> float:
    """The largest value as a multiple of the smallest; 0 unless all are positive."""
    return max(values) / min(values) if values and min(values) > 0 else 0.0


def spread_of(name: str, values: Sequence[float], table: Table) -> float:
    """The spread of a metric; 0 if larger is better: shares and scores are read on an even axis."""
    return 0.0 if table.better.get(name) == "larger" else spread(values)


def between(ratio: float) -> LogLocator:
    """Ticks of a logarithmic axis: 1, 2 and 5 times the powers of ten, or these alone where there are many.

    Args:
        ratio: The largest value as a multiple of the smallest.
    """
    return LogLocator(subs=(1, 2, 5) if ratio < 300 else (1,))


def ticked(axis: Axis, where: Locator) -> None:
    """Ticks with their plain numbers, and no others between them."""
    axis.set_major_locator(where)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure of small panels, three a row."""
    across = min(count, ACROSS)
    down = -(-count // across)
    figure = Figure(figsize=(PANEL[0] * across, PANEL[1] * down), facecolor=PAPER, layout="constrained")
    return figure, [figure.add_subplot(down, across, i + 1) for i in range(count)]


def styled(axes: Axes, title: str, below: str, ratio: float) -> None:
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
        ticked(axes.yaxis, between(ratio))
    axes.tick_params(colors=QUIET, labelsize=8, length=0, which="both")
    axes.grid(True, color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.03)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(QUIET)


def png(figure: Figure) -> bytes:
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144)
    return buffer.getvalue()
