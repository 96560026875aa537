"""Which method: one number for each method and number of steps, over all joints."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from dimo_core.texts import steps_of
from dimo_gym.methods import METHODS, NONE
from dimo_gym.plan import Plan

Row = Mapping[str, Any]
SAMPLERS = {"random-order": "teacher's sampler random-order", "maskgit": "teacher's sampler maskgit"}


def overview(cells: Sequence[Row], samplers: Sequence[Row], plan: Plan, knows: str) -> str:
    """Mean over the joints of the total variation, by steps; with the spread over seeds, the least one bold.

    Only steps that every joint has, and methods that were measured at all joints, so that columns compare.

    Args:
        cells: What was measured of generators.
        samplers: What was measured of samplers.
        plan: What was asked for.
        knows: Which teachers.

    Returns:
        Markdown; empty where nothing can be compared.
    """
    joints = plan.joints_of(knows)  # type: ignore[arg-type]
    steps = [k for k in sorted(plan.steps) if all(k in plan.steps_of(joint) for joint in joints)]
    found: dict[str, dict[int, tuple[float, float]]] = {}
    for name, title in SAMPLERS.items():
        own = [row for row in samplers if (row["sampler"], row["knows"]) == (name, knows)]
        found[title] = _means(own, joints, steps)
    for method in plan.methods:
        key = (method, METHODS[method].divergence or NONE, knows)
        own = [row for row in cells if (row["method"], row["divergence"], row["knows"]) == key]
        found[METHODS[method].about] = _means(own, joints, steps)
    found = {title: values for title, values in found.items() if values}
    steps = [k for k in steps if any(k in values for values in found.values())]
    if not steps:
        return ""
    best = {k: min(values[k][0] for values in found.values() if k in values) for k in steps}
    lines = [f"| {knows} teachers | {' | '.join(map(steps_of, steps))} |", f"|---|{'--:|' * len(steps)}"]
    for title, values in found.items():
        texts = [_text(values[k], best[k]) if k in values else "" for k in steps]
        lines.append(f"| {title} | {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def _means(
    rows: Sequence[Row], joints: Sequence[str], steps: Sequence[int]
) -> dict[int, tuple[float, float]]:
    """By steps, mean over the joints, and the standard deviation of it over seeds."""
    found = {}
    for k in steps:
        of = [row for row in rows if row["steps"] == k and "data" in row]
        seeds: dict[int, dict[str, float]] = {}
        for row in of:
            seeds.setdefault(row.get("seed", 0), {})[row["joint"]] = row["data"]["tv"]
        each = [mean(tv.values()) for tv in seeds.values() if set(tv) == set(joints)]
        if each:
            found[k] = (mean(each), stdev(each) if len(each) > 1 else 0.0)
    return found


def _text(value: tuple[float, float], best: float) -> str:
    number = f"{value[0]:.3f}"
    number = f"**{number}**" if value[0] == best else number
    return number + (f" ± {value[1]:.3f}" if value[1] else "")
