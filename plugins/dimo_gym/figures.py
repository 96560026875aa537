"""Figures of the gym, as PNG files: total variation by steps, and by divergence."""

import io
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any

from dimo_core.texts import steps_of
from dimo_gym.methods import METHODS, NONE
from dimo_gym.plan import Plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#a3588c", "#8a7000")
QUIET = "#6b7078"
OBJECTIVES = {
    "dimo": "#0072b2",
    "dimo-data": "#56b4e9",
    "idlm": "#d55e00",
    "d-mmd": "#e6a020",
    "sdtt": "#009e73",
    "pairs": "#a3588c",
    "di4c": "#8a7000",
}
"""A colour for each objective; how a line is drawn says what the generator is, or where it starts."""


def style(name: str) -> dict[str, Any]:
    """Colour, dashes and marker of a method."""
    method = METHODS[name]
    objective = "d-mmd" if "corruption" in method.objective else method.objective["name"]
    objective = "pairs" if method.drawn else objective
    how = {"color": OBJECTIVES.get(objective, OBJECTIVES["di4c"]), "marker": "o", "linestyle": "-"}
    if method.generator == "imdm":
        how |= {"marker": "s", "linestyle": "--"}
    elif name in ("dimo-masks", "di4c-d", "pairs-dimo"):
        how |= {"marker": "^", "linestyle": "-."}
    return how


def by_steps(cells: Sequence[Row], samplers: Sequence[Row], plan: Plan) -> bytes | None:
    """One panel a joint and teacher: total variation against passes; None without generators."""
    from matplotlib.figure import Figure

    if not (panels := [(k, j) for j in plan.all_joints() for k in plan.teachers if _of(cells, k, j)]):
        return None
    across = min(4, len(panels))
    down = -(-len(panels) // across)
    figure = Figure(figsize=(max(3.0 * across, 7), 3.0 * down + 1.2), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).flatten()
    handles = dict[str, Any]()
    for axis, (knows, joint) in zip(axes, panels, strict=False):
        for name, dash in (("random-order", "-"), ("maskgit", ":")):
            own = [row for row in _of(samplers, knows, joint) if row["sampler"] == name]
            how = {"color": QUIET, "linestyle": dash, "marker": "x"}
            handles |= _line(axis, own, f"teacher's sampler {name}", how)
        for name in plan.methods:
            own = [row for row in _of(cells, knows, joint) if row["method"] == name]
            shown = [row for row in own if row["divergence"] == (METHODS[name].divergence or NONE)]
            handles |= _line(axis, shown or own, METHODS[name].about, style(name))
        axis.set_xscale("log", base=2)
        axis.set_xticks(plan.steps, [str(k) for k in plan.steps])
        axis.minorticks_off()
        axis.set_title(f"{joint}, {knows} teacher", fontsize=9)
        axis.set_xlabel("steps", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.set_ylim(0, 1)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    figure.supylabel("total variation from the data", fontsize=9)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=7)
    return _png(figure)


def by_divergence(cells: Sequence[Row]) -> bytes | None:
    """Exact teachers, a panel a method and number of steps, a dot for each joint and seed.

    None where no method has two divergences.
    """
    from matplotlib.figure import Figure

    exact = [row for row in cells if row["knows"] == "exact" and "data" in row]
    exact = [row for row in exact if METHODS[row["method"]].others]
    tried = {(r["method"], r["steps"]) for r in exact if r["divergence"] != METHODS[r["method"]].divergence}
    if not (panels := [(name, k) for name in METHODS for k in sorted(k for m, k in tried if m == name)]):
        return None
    across = len({k for _, k in panels})
    down = -(-len(panels) // across)
    figure = Figure(figsize=(5.2 * across, 2.3 * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for axis, (method, k) in zip(axes, panels, strict=False):
        rows = [row for row in exact if (row["method"], row["steps"]) == (method, k)]
        where = {row["joint"] for row in rows if row["divergence"] != METHODS[method].divergence}
        rows = [row for row in rows if row["joint"] in where]
        names, joints = (sorted({row[key] for row in rows}) for key in ("divergence", "joint"))
        for shift, (colour, joint) in enumerate(zip(COLOURS, joints, strict=False)):
            own = [row for row in rows if row["joint"] == joint]
            x = [names.index(row["divergence"]) + (shift - (len(joints) - 1) / 2) * 0.2 for row in own]
            axis.plot(x, [row["data"]["tv"] for row in own], "o", color=colour, markersize=3.5, label=joint)
        axis.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=7)
        axis.set_title(f"{METHODS[method].about}, {steps_of(k)}", fontsize=9)
        axis.set_ylim(0, 1)
        axis.grid(axis="x", alpha=0.2)
    axes[0].legend(fontsize=7, frameon=False)
    figure.supylabel("total variation from the data", fontsize=9)
    return _png(figure)


def _of(rows: Sequence[Row], knows: str, joint: str) -> list[Row]:
    return [row for row in rows if (row["knows"], row["joint"]) == (knows, joint) and "data" in row]


def _line(axis: Any, rows: Sequence[Row], label: str, how: Mapping[str, Any]) -> dict[str, Any]:
    """Draw the mean over seeds and its range; returns the label with its line."""
    if not (steps := sorted({row["steps"] for row in rows})):
        return {}
    each = [[row["data"]["tv"] for row in rows if row["steps"] == k] for k in steps]
    (line,) = axis.plot(steps, [*map(mean, each)], markersize=3, linewidth=1.2, **how)
    low, high = [*map(min, each)], [*map(max, each)]
    axis.fill_between(steps, low, high, color=how["color"], alpha=0.12, linewidth=0)
    return {label: line}


def _png(figure: "Figure") -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130)
    return file.getvalue()
