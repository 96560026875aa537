"""Figures of the gym, as PNG files: total variation by steps, and by divergence."""

import io
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any

from dimo_gym.plan import Plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#a3588c", "#56b4e9", "#8a7000")
QUIET = "#6b7078"
SHOWN = {"dimo": "jeffrey", "dimo-masks": "jeffrey", "dimo-data": "jeffrey"}
"""The divergence that a method is drawn with; reverse KL where none is named."""


def by_steps(cells: Sequence[Row], samplers: Sequence[Row], plan: Plan) -> bytes | None:
    """One panel a joint and teacher: total variation against passes; None without generators."""
    from matplotlib.figure import Figure

    if not (panels := [(k, j) for k in plan.teachers for j in plan.joints if _of(cells, k, j)]):
        return None
    across = min(len(plan.joints), len(panels))
    figure = Figure(figsize=(3.2 * across, 2.9 * -(-len(panels) // across)), layout="constrained")
    axes = figure.subplots(-(-len(panels) // across), across, squeeze=False).flatten()
    for axis, (knows, joint) in zip(axes, panels, strict=False):
        for name, dash in (("random-order", "--"), ("ancestral", ":")):
            own = [row for row in _of(samplers, knows, joint) if row["sampler"] == name]
            _line(axis, own, f"teacher, {name}", QUIET, dash)
        methods = dict.fromkeys(row["method"] for row in cells)
        for colour, name in zip(COLOURS, methods, strict=False):
            own = [row for row in _of(cells, knows, joint) if row["method"] == name]
            _line(axis, [r for r in own if r["divergence"] == SHOWN.get(name, "rkl")], name, colour, "-")
        axis.set_xscale("log", base=2)
        axis.set_xticks(plan.steps, [str(k) for k in plan.steps])
        axis.set_title(f"{joint}, {knows} teacher", fontsize=9)
        axis.set_ylim(0, 1)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    axes[0].set_ylabel("total variation from the data")
    axes[0].legend(fontsize=6.5, frameon=False)
    return _png(figure)


def by_divergence(cells: Sequence[Row]) -> bytes | None:
    """Di[M]O in one step with exact teachers, a dot for each seed; None with fewer than two divergences."""
    from matplotlib.figure import Figure

    rows = [r for r in cells if (r["method"], r["steps"], r["knows"]) == ("dimo", 1, "exact") and "data" in r]
    names = sorted({row["divergence"] for row in rows})
    if len(names) < 2:
        return None
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axis = figure.subplots()
    joints = [*dict.fromkeys(row["joint"] for row in rows)]
    for shift, (colour, joint) in enumerate(zip(COLOURS, joints, strict=False)):
        own = [row for row in rows if row["joint"] == joint]
        x = [names.index(row["divergence"]) + (shift - len(joints) / 2) * 0.15 for row in own]
        axis.plot(x, [row["data"]["tv"] for row in own], "o", color=colour, markersize=4, label=joint)
    axis.set_xticks(range(len(names)), names, rotation=30, fontsize=8)
    axis.set_ylabel("total variation from the data")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=7, frameon=False)
    return _png(figure)


def _of(rows: Sequence[Row], knows: str, joint: str) -> list[Row]:
    return [row for row in rows if (row["knows"], row["joint"]) == (knows, joint) and "data" in row]


def _line(axis: Any, rows: Sequence[Row], label: str, colour: str, dash: str) -> None:
    steps = sorted({row["steps"] for row in rows})
    if steps:
        each = [[row["data"]["tv"] for row in rows if row["steps"] == k] for k in steps]
        axis.plot(steps, [*map(mean, each)], dash, color=colour, marker="o", markersize=3, label=label)
        low, high = [*map(min, each)], [*map(max, each)]
        axis.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)


def _png(figure: "Figure") -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130)
    return file.getvalue()
