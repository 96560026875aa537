"""The table of the gym: JSON, Markdown, and figures."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from dimo_core.files.folder import Folder
from dimo_core.texts import steps_of
from dimo_gym.figures import by_divergence, by_steps
from dimo_gym.plan import Plan

Row = Mapping[str, Any]
KEY = ("knows", "method", "divergence")


def write(
    folder: Folder, cells: Sequence[Row], samplers: Sequence[Row], floors: Sequence[Row], plan: Plan
) -> str:
    """Write ``table.json``, ``table.md`` and figures into the folder; returns the Markdown.

    Args:
        folder: Of the gym.
        cells: What was measured of generators.
        samplers: What was measured of samplers.
        floors: What factorised steps must lose.
        plan: What was asked for.
    """
    folder.write_json("table.json", {"cells": [*cells], "samplers": [*samplers], "floors": [*floors]})
    parts = [heading(plan, cells)]
    for joint in plan.joints:
        own = [[row for row in rows if row["joint"] == joint] for rows in (cells, samplers, floors)]
        parts += [f"### {joint}\n", table(own[0], own[1], own[2], plan.steps)]
    compared = one_step(cells, plan)
    parts += ["### One step, by divergence\n", compared] if compared else []
    text = "\n".join(parts)
    folder.write("table.md", text.encode())
    for name, drawn in {
        "steps": by_steps(cells, samplers, plan),
        "divergences": by_divergence(cells),
    }.items():
        if drawn is not None:
            folder.write(f"{name}.png", drawn)
    return text


def heading(plan: Plan, cells: Sequence[Row]) -> str:
    """What the numbers are, and how many of the cells are there."""
    seeds = sorted({row["seed"] for row in cells})
    return (
        f"{len(cells)} of {len(plan.cells())} generators, seeds {', '.join(map(str, seeds)) or 'none'}; each "
        f"trained for {plan.training} steps of {plan.batch}. Total variation from the data's joint, mean "
        "over two conditions and over seeds, +- the standard deviation where there are several seeds; after "
        "it, where it is not 0.000, the share outside of the joint's support. Laws are enumerated; ~ marks "
        "what was counted from samples.\n"
    )


def table(cells: Sequence[Row], samplers: Sequence[Row], floors: Sequence[Row], steps: Sequence[int]) -> str:
    """Floors, samplers and generators of one joint, by steps."""
    lines = [f"| | {' | '.join(map(steps_of, steps))} |", f"|---|{'--:|' * len(steps)}"]
    for name, text in (("random", "mean over orders"), ("best", "best order")):
        each = {row["steps"]: row[name] for row in floors}
        values = [f"{max(each[k], 0):.3f}" for k in steps]
        lines.append(f"| multi-information cut, nats, {text} | {' | '.join(values)} |")
    names = {"untrained": "few_step from masks, untrained"}
    for knows, name in dict.fromkeys((row["knows"], row["sampler"]) for row in samplers):
        own = [row for row in samplers if (row["knows"], row["sampler"]) == (knows, name)]
        texts = [spread([row for row in own if row["steps"] == k]) for k in steps]
        lines.append(f"| {knows} teacher, {names.get(name, name)} | {' | '.join(texts)} |")
    for key in sorted({tuple(row[k] for k in KEY) for row in cells}):
        own = [row for row in cells if tuple(row[k] for k in KEY) == key]
        texts = [spread([row for row in own if row["steps"] == k]) for k in steps]
        lines.append(f"| {key[0]} teacher, {key[1]}, {key[2]} | {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def one_step(cells: Sequence[Row], plan: Plan) -> str:
    """One step of Di[M]O with exact teachers: KL in both directions, which depend on the divergence most."""
    rows = [r for r in cells if (r["method"], r["steps"], r["knows"]) == ("dimo", 1, "exact")]
    names = sorted({row["divergence"] for row in rows})
    if len(names) < 2:
        return ""
    lines = [f"| | {' | '.join(f'{j}: TV, KL, reverse KL' for j in plan.joints)} |"]
    lines.append(f"|---|{'---|' * len(plan.joints)}")
    for name in names:
        texts = []
        for joint in plan.joints:
            own = [r["data"] for r in rows if (r["divergence"], r["joint"]) == (name, joint) and "data" in r]
            keys = ("tv", "kl", "reverse_kl")
            texts.append(", ".join(_mean([one[key] for one in own]) for key in keys) if own else "")
        lines.append(f"| {name} | {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def _mean(values: Sequence[float | None]) -> str:
    return "∞" if None in values else f"{mean(x for x in values if x is not None):.3f}"


def spread(rows: Sequence[Row]) -> str:
    """Total variation over seeds, and what is outside of the support; empty where nothing was measured."""
    whole = [row for row in rows if "data" in row]
    lost = f" ({len(rows) - len(whole)} of {len(rows)} diverged)" if len(whole) < len(rows) else ""
    if not whole:
        return lost.strip()
    tv = [row["data"]["tv"] for row in whole]
    outside = mean(row["data"]["outside"] for row in whole)
    about = "~" if whole[0]["how"] != "exact" else ""
    text = f"{about}{mean(tv):.3f}" + (f" +- {stdev(tv):.3f}" if len(tv) > 1 else "")
    return text + (f", {outside:.3f}" if outside >= 5e-4 else "") + lost
