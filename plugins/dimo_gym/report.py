"""The table of the gym: JSON, Markdown, and figures."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from dimo_core.files.folder import Folder
from dimo_core.texts import steps_of
from dimo_gym.figures import by_divergence, by_steps
from dimo_gym.methods import METHODS, NONE
from dimo_gym.overview import overview
from dimo_gym.plan import Plan

Row = Mapping[str, Any]
TITLES = {"exact": "exact teacher", "learnt": "learnt teacher"}
SAMPLED = {
    "random-order": "sampler random-order, or few_step from masks untrained",
    "ancestral": "sampler ancestral",
    "maskgit": "sampler maskgit",
}
"""What tables call samplers."""


def write(
    folder: Folder, cells: Sequence[Row], samplers: Sequence[Row], floors: Sequence[Row], plan: Plan
) -> str:
    """Write ``table.json``, ``table.md``, ``overview.md`` and figures into the folder; returns the Markdown.

    Args:
        folder: Of the gym.
        cells: What was measured of generators.
        samplers: What was measured of samplers.
        floors: What factorised steps must lose.
        plan: What was asked for.
    """
    folder.write_json("table.json", {"cells": [*cells], "samplers": [*samplers], "floors": [*floors]})
    parts = [heading(plan, cells)]
    compared = "\n".join(filter(None, (overview(cells, samplers, plan, knows) for knows in plan.teachers)))
    folder.write("overview.md", compared.encode())
    parts += ["### Mean over the joints\n", compared] if compared else []
    for joint in plan.all_joints():
        own = [[row for row in rows if row["joint"] == joint] for rows in (cells, samplers, floors)]
        parts += [f"### {joint}\n", table(own[0], own[1], own[2], plan)]
    if "learnt" in plan.teachers:
        learnt = [[row for row in rows if row["knows"] == "learnt"] for rows in (cells, samplers)]
        own_joint = from_teacher(learnt[0], learnt[1], plan)
        parts += ["### From what the learnt teacher draws site by site\n", own_joint]
    for method in plan.methods:
        if named := by_name(cells, method):
            parts += [f"### {METHODS[method].about}, by divergence\n", named]
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
        "means over samples, which make it look larger by up to the error in table.json. Of a joint with L "
        "sites the first number of steps that is at least L decides one after the other, and is the last. "
        "A method has its own divergence here.\n"
    )


def table(
    cells: Sequence[Row], samplers: Sequence[Row], floors: Sequence[Row], plan: Plan, of: str = "data"
) -> str:
    """Floors, samplers and generators of one joint: a row each, by steps, exact teachers beside learnt ones.

    Args:
        cells: Generators.
        samplers: Samplers.
        floors: Floors.
        plan: What was asked for.
        of: Distances from the joint of the ``data``, or from what the ``teacher`` draws site by site.
    """
    steps = sorted({row["steps"] for row in (*samplers, *cells)})
    known = [knows for knows in plan.teachers if any(row["knows"] == knows for row in (*samplers, *cells))]
    columns = [(knows, k) for knows in known for k in steps]
    titles = [f"{TITLES[knows]}, {steps_of(k)}" for knows, k in columns]
    lines = [f"| | {' | '.join(titles)} |", f"|---|{'--:|' * len(columns)}"]
    for name, text in (("random", "mean over orders"), ("best", "best order")) if floors else ():
        each = {row["steps"]: f"{max(row[name], 0):.3f}" for row in floors}
        lines.append(_line(f"multi-information cut, nats, {text}", [each.get(k, "") for _, k in columns]))
    for name, title in SAMPLED.items():
        own = [row for row in samplers if row["sampler"] == name]
        if own:
            lines.append(_line(title, _spreads(own, columns, of)))
    for method, divergence in _pairs(cells, plan):
        own = [row for row in cells if (row["method"], row["divergence"]) == (method, divergence)]
        lines.append(_line(titled(method, divergence), _spreads(own, columns, of)))
    return "\n".join(lines) + "\n"


def from_teacher(cells: Sequence[Row], samplers: Sequence[Row], plan: Plan) -> str:
    """The same of learnt teachers' own joints, one table a joint."""
    parts = []
    for joint in plan.joints_of("learnt"):
        own = [[row for row in rows if row["joint"] == joint] for rows in (cells, samplers)]
        parts += [f"{joint}:\n", table(own[0], own[1], [], plan, "teacher")]
    return "\n".join(parts)


def titled(method: str, divergence: str) -> str:
    """A method as the docs call it, with its divergence where it has one."""
    return METHODS[method].about + ("" if divergence == NONE else f", {divergence}")


def _pairs(cells: Sequence[Row], plan: Plan) -> list[tuple[str, str]]:
    """Method and divergence of each row: the method's own one, or those that were asked for."""
    found = []
    for method in plan.methods:
        there = sorted({row["divergence"] for row in cells if row["method"] == method})
        own = METHODS[method].divergence or NONE
        found += [(method, name) for name in there if plan.divergences is not None or name == own]
    return found


def _spreads(rows: Sequence[Row], columns: Sequence[tuple[str, int]], of: str) -> list[str]:
    return [spread([r for r in rows if (r["knows"], r["steps"]) == column], of) for column in columns]


def _line(title: str, texts: Sequence[str]) -> str:
    return f"| {title} | {' | '.join(texts)} |"


def by_name(cells: Sequence[Row], method: str) -> str:
    """A method with exact teachers by divergence; empty with fewer than two.

    KL in both directions depends on the divergence most, so it is there beside the total variation.
    """
    rows = [row for row in cells if (row["method"], row["knows"]) == (method, "exact")]
    names = sorted({row["divergence"] for row in rows})
    if len(names) < 2:
        return ""
    # A column is where others than the method's own divergence were tried.
    tried = {(r["joint"], r["steps"]) for r in rows if r["divergence"] != METHODS[method].divergence}
    columns = sorted(tried)
    lines = [_line("", [f"{joint}, {steps_of(k)}: TV, KL, reverse KL" for joint, k in columns])]
    lines.append(f"|---|{'---|' * len(columns)}")
    for name in names:
        texts = []
        for column in columns:
            of = [r for r in rows if (r["divergence"], r["joint"], r["steps"]) == (name, *column)]
            own = [r["data"] for r in of if "data" in r]
            keys = ("tv", "kl", "reverse_kl")
            texts.append(", ".join(_mean([one[key] for one in own]) for key in keys) if own else "")
        lines.append(_line(name, texts))
    return "\n".join(lines) + "\n"


def _mean(values: Sequence[float | None]) -> str:
    return "∞" if None in values else f"{mean(x for x in values if x is not None):.3f}"


def spread(rows: Sequence[Row], of: str = "data") -> str:
    """Total variation over seeds, and what is outside of the support; empty where nothing was measured.

    Args:
        rows: A cell for each seed.
        of: ``data`` or ``teacher``, as in ``table``.
    """
    whole = [row for row in rows if "data" in row]
    lost = f" ({len(rows) - len(whole)} of {len(rows)} diverged)" if len(whole) < len(rows) else ""
    if not whole:
        return lost.strip()
    tv = [row[of]["tv"] for row in whole]
    outside = mean(row[of]["outside"] for row in whole)
    about = "~" if whole[0]["how"] != "exact" else ""
    text = f"{about}{mean(tv):.3f}" + (f" +- {stdev(tv):.3f}" if len(tv) > 1 else "")
    return text + (f", {outside:.3f}" if outside >= 5e-4 else "") + lost
