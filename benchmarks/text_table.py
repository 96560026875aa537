"""The embedded teacher of text at 64 ... 1 passes, and generators at 1, 2, 4 and 8, beside its frontier.

    python benchmarks/text_table.py --train       # one generator a method and number of steps
    python benchmarks/text_table.py               # the table and the figure, of what is finished

Each generator is a preset of the teacher, trained for a number of steps and sampled in as many; those of four
steps, the presets' number, are sampled in all. A frontier is the teacher in 16 steps
at several temperatures: perplexity means something at equal entropy only.
Everything can be interrupted: the same command goes on where it was. Runs stay in runs/text; table, figure
and the numbers of generators (text.json, where those of other seeds and machines stay) go to docs/results
(--results).
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from paper_table import finished, trained
from records import Record, by_method, joined, read, write

from dimo_core.choice import Choice
from dimo_core.evaluation.table import Row, Table
from dimo_core.jobs.compare import Comparing, compare
from dimo_core.jobs.compared import TeacherRows
from dimo_core.registry import Registry
from dimo_mdlm.recipes import RECIPES
from dimo_text.measures import at_entropy

HOME = Path("runs/text")
METHODS: Mapping[str, str] = {"few-step": "Di[M]O", "idlm": "IDLM", "sdtt": "SDTT", "imdm": "IMDM"}
STEPS, PRESET, OF = (1, 2, 4, 8), 4, 16
"""Of generators, what the presets are trained for, and of the teacher's frontiers."""

TEMPERATURES = (0.6, 0.7, 0.8, 0.9)
"""Of a frontier, besides 1."""

SAMPLERS: Mapping[str, Mapping[str, Any]] = {"mdlm": {}, "halton": {"roll": True, "schedule": "linear"}}
"""Of the teacher: its own, and one that decides sites in the order of these generators."""

AT_A_TIME = 50
"""Samples: a quarter faster on a core than all 500, whose logits do not stay in its cache."""

SHOWN = ("perplexity", "entropy", "words", "kind", "mauve", "ngram_1", "ngram_2", "ngram_3")
THERE = tuple(f"{name} {OF} there" for name in SAMPLERS)
HEAD = ("samples of", "trained for", "seeds", "steps", "passes", *THERE, *SHOWN)

DRAWN = ("entropy", "perplexity", "mauve")

Curve = Sequence[tuple[float, float]]
"""Pairs of entropy and perplexity."""


def folder(method: str, steps: int, seed: int) -> Path:
    """Where a run is."""
    return HOME / method / f"{steps}-steps-seed{seed}"


def options(method: str, steps: int) -> dict[str, Any]:
    """A preset, changed to be trained for a number of steps: what hangs on that number goes with it."""
    objective = dict(RECIPES["small"][method]["objective"])
    if method == "sdtt":
        objective["first_steps"] = objective["first_steps"] * steps // PRESET
    if method == "imdm":
        objective["horizon"] = min(1.0, objective["horizon"] * PRESET / steps)
    name = RECIPES["small"][method]["generator"]["name"]
    changed = {"generator": {"name": name, "steps": steps}, "objective": objective}
    return {"teacher": {"name": "text"}, "preset": method, **changed}


def train(given: argparse.Namespace) -> None:
    """Train, continue, or find finished; first all for the number of steps of the presets."""
    for steps in sorted(given.trained_for, key=lambda n: n != PRESET):
        for seed in given.seeds:
            for method in given.methods:
                trained(folder(method, steps, seed), seed, given.train_steps, options(method, steps))


def compared(name: str, given: argparse.Namespace, **what: object) -> list[Row]:
    """The rows of one comparison with the teacher."""
    registry = Registry.discover()
    found = compare(
        registry.load("teacher", "text")(),
        Comparing(
            out=str(HOME / f"{name}{given.samples or ''}"),
            changes={"samples": given.samples, "seeds": (given.draw,)},
            device="cpu",
            batch_size=AT_A_TIME,
            keep=str(HOME / f"{name}{given.samples or ''}-kept"),
            command="python benchmarks/text_table.py",
            **what,  # type: ignore[arg-type]
        ),
        registry,
    )
    assert isinstance(found, Table)
    return list(found.rows)


def rows_of_teacher(given: argparse.Namespace) -> list[Row]:
    """Rows of real data, and by sampler those of the teacher in all steps and of its frontier."""
    found = compared("teacher", given, rows=TeacherRows())
    for name, options in SAMPLERS.items():
        if options:
            warm = TeacherRows(samplers=(Choice(name, options),))
            found += [row for row in compared(name, given, rows=warm) if row.kind == "teacher"]
        cold = tuple(Choice(name, {**options, "temperature": t}) for t in TEMPERATURES)
        frontier = compared(f"{name}-frontier", given, rows=TeacherRows(samplers=cold, steps=(OF,)))
        found += [row for row in frontier if row.kind == "teacher"]
    return found


def records_of(given: argparse.Namespace) -> list[Record]:
    """Those of finished generators."""
    found = []
    for method, seed, n in product(given.methods, given.seeds, given.trained_for):
        if finished(folder(method, n, seed)):
            rows = compared(
                f"{method}-{n}-steps-seed{seed}",
                given,
                generators=(str(folder(method, n, seed)),),
                generator_steps=STEPS if n == PRESET else (n,),
            )
            found += [
                Record.of(("text", method, row.steps, seed), row, n)
                for row in rows
                if row.kind == "generator"
            ]
    return found


def frontiers(rows: Sequence[Row]) -> dict[str, Curve]:
    """Entropy and perplexity of the teacher in 16 steps at each temperature, by sampler."""
    return {
        name: sorted(
            (row.metrics["entropy"], row.metrics["perplexity"])
            for row in rows
            if row.kind == "teacher" and row.steps == OF and row.name.startswith(name)
        )
        for name in SAMPLERS
    }


def ordered(records: Sequence[Record]) -> list[Record]:
    """One of each method, training and number of steps, in the order of the table."""

    def place(record: Record) -> tuple[int, bool, int | None, int]:
        n = record.trained_for
        return list(METHODS).index(record.method), n != PRESET, n, record.steps

    return sorted(by_method(records), key=place)


def table(others: Sequence[Row], records: Sequence[Record]) -> str:
    """Markdown: each row, and the perplexity that the teacher has in 16 steps at its entropy."""
    curves = frontiers(others)
    lines = [f"| {' | '.join(HEAD)} |", "|---|" + "--:|" * (len(HEAD) - 1)]

    def line(
        first: Sequence[object], steps: int | None, passes: int | None, shown: Record, there: bool
    ) -> str:
        entropy = shown.metrics["entropy"][0]
        equal = [at_entropy(curve, entropy) if there else None for curve in curves.values()]
        numbers = [shown.shown(m, 1 if m == "perplexity" else 3) for m in SHOWN]
        found = ["-" if value is None else f"{value:.1f}" for value in equal]
        return f"| {' | '.join(map(str, [*first, steps or '', passes or '', *found, *numbers]))} |"

    for row in others:
        one = Record.of(("text", "", row.steps or 0, 0), row)
        lines.append(line((row.name, "", ""), row.steps, row.passes, one, row.kind != "real"))
    for record in ordered(records):
        first = (METHODS[record.method], record.trained_for, len(record.seeds))
        lines.append(line(first, record.steps, record.passes, record, True))
    return "\n".join(lines)


def figure(others: Sequence[Row], records: Sequence[Record], path: Path) -> None:
    """Perplexity by entropy, MAUVE* by steps; generators trained for the steps go before others."""
    fig = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(fig)
    left, right = fig.subplots(1, 2)
    real = next(row for row in others if row.kind == "real")
    curves: dict[str, dict[int, tuple[float, ...]]] = {}
    for row in others:
        if row.kind == "teacher" and "temperature" not in row.name and row.steps:
            place = f"teacher, {row.name.partition(',')[0].partition(' ')[0]}"
            curves.setdefault(place, {})[row.steps] = tuple(row.metrics[m] for m in DRAWN)
    for record in sorted(ordered(records), key=lambda record: record.trained_for == record.steps):
        name = METHODS[record.method]
        curves.setdefault(name, {})[record.steps] = tuple(record.metrics[m][0] for m in DRAWN)
    for (name, curve), style in zip(frontiers(others).items(), ("--", ":"), strict=True):
        left.plot(
            *zip(*curve, strict=True), color="#999", ls=style, lw=1, label=f"{name}, {OF} steps, colder"
        )
    left.plot(real.metrics["entropy"], real.metrics["perplexity"], "k*", ms=9, label="real text")
    right.axhline(real.metrics["mauve"], color="#555", ls=":", lw=1, label="real text")
    for name, points in curves.items():
        steps = sorted(points)
        x, y, z = zip(*(points[n] for n in steps), strict=True)
        left.plot(x, y, marker="o", ms=4, lw=1, label=name)
        for n, a, b in zip(steps, x, y, strict=True):
            left.annotate(str(n), (a, b), fontsize=7, xytext=(3, 3), textcoords="offset points")
        right.plot(steps, z, marker="o", ms=4, label=name)
    left.set_yscale("log")
    left.set(xlabel="entropy of a sample, nats", ylabel="perplexity under the reader")
    right.set_xscale("log", base=2)
    right.set(xlabel="steps", ylabel="MAUVE*")
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
        ax.legend(fontsize=7)
    fig.savefig(path, dpi=110)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", action="store_true", help="train what is not finished, and judge nothing")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the trainings")
    parser.add_argument("--trained-for", type=int, nargs="+", choices=STEPS, default=[PRESET])
    parser.add_argument("--draw", type=int, default=0, help="seed of the samples")
    parser.add_argument("--samples", type=int, help="samples a row; those of the teacher's plan unless given")
    parser.add_argument("--train-steps", type=int, help="those of the presets unless given")
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    given = parser.parse_args()
    if given.train:
        train(given)
        return
    given.results.mkdir(parents=True, exist_ok=True)
    kept = given.results / "text.json"
    others, records = rows_of_teacher(given), joined(read(kept), records_of(given))
    write(kept, records)
    (given.results / "text.md.inc").write_text(table(others, records) + "\n")
    figure(others, records, given.results / "text.png")


if __name__ == "__main__":
    main()
