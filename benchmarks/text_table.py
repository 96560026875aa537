"""The embedded teacher of text at 64 ... 1 passes, and generators at 1, 2, 4 and 8, beside its frontier.

    python benchmarks/text_table.py --train       # one generator a method and number of steps
    python benchmarks/text_table.py               # the table and the figure, of what is finished

Each generator is a preset of the teacher, trained for a number of steps and sampled in as many; a number that
none of its method was trained for is taken by the one of four steps. The frontier is the teacher in 16 steps
at several temperatures: perplexity means something at equal entropy only.
Everything can be interrupted: the same command goes on where it was. Runs and numbers stay in runs/text;
table and figure go to docs/results (--results).
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from paper_table import finished, trained

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
"""Of generators, what the presets are trained for, and of the teacher's frontier."""

TEMPERATURES = (0.6, 0.7, 0.8, 0.9)
"""Of the frontier, besides 1."""

AT_A_TIME = 50
"""Samples: a quarter faster on a core than all 500, whose logits do not stay in its cache."""

SHOWN = ("perplexity", "entropy", "words", "kind", "mauve", "ngram_1", "ngram_2", "ngram_3")
HEAD = ("samples of", "trained for", "steps", "passes", f"{OF} steps there", *SHOWN)

Found = Sequence[tuple[int, Row]]
"""Rows of generators of one method and seed, by their steps, each with those that it was trained for."""


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


def sampled(method: str, steps: int, seed: int) -> tuple[int, ...]:
    """In how many steps a finished generator is sampled: its own, and those of the preset in all others."""
    if steps != PRESET:
        return (steps,)
    return tuple(n for n in STEPS if n == PRESET or not finished(folder(method, n, seed)))


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


def rows_of(given: argparse.Namespace) -> tuple[list[Row], dict[str, Found]]:
    """Rows of real data, of the teacher and of its frontier; and those of finished generators by name."""
    teacher = compared("teacher", given, rows=TeacherRows())
    cold = tuple(Choice("mdlm", {"temperature": t}) for t in TEMPERATURES)
    frontier = compared("frontier", given, rows=TeacherRows(samplers=cold, steps=(OF,)))
    found: dict[str, Found] = {}
    for method, seed in product(given.methods, given.seeds):
        done = [n for n in given.trained_for if finished(folder(method, n, seed))]
        rows = [
            (n, row)
            for n in done
            for row in compared(
                f"{method}-{n}-steps-seed{seed}",
                given,
                generators=(str(folder(method, n, seed)),),
                generator_steps=sampled(method, n, seed),
            )
            if row.kind == "generator"
        ]
        if rows:
            found[f"{METHODS[method]}, seed {seed}"] = sorted(rows, key=lambda pair: pair[1].steps)
    return teacher + [row for row in frontier if row.kind == "teacher"], found


def frontier_of(rows: Sequence[Row]) -> list[tuple[float, float]]:
    """Entropy and perplexity of the teacher in 16 steps at each temperature."""
    own = [row for row in rows if row.kind == "teacher" and row.steps == OF]
    return [(row.metrics["entropy"], row.metrics["perplexity"]) for row in own]


def table(others: Sequence[Row], generators: Mapping[str, Found], before: str = "") -> str:
    """Markdown: each row, and the perplexity that the teacher has in 16 steps at its entropy.

    Rows of an earlier table whose generators are not here stay, after the others of their method.
    """
    curve = frontier_of(others)
    lines = [f"| {' | '.join(HEAD)} |", "|---|" + "--:|" * (len(HEAD) - 1)]
    named = [(row.name, "", row) for row in others]
    named += [(name, str(n), row) for name, rows in generators.items() for n, row in rows]
    for name, own, row in named:
        there = None if row.kind == "real" else at_entropy(curve, row.metrics["entropy"])
        numbers = " | ".join(
            f"{row.metrics[m]:.{1 if m == 'perplexity' else 3}f}" if m in row.metrics else "-" for m in SHOWN
        )
        equal = "-" if there is None else f"{there:.1f}"
        lines.append(f"| {name} | {own} | {row.steps or ''} | {row.passes or ''} | {equal} | {numbers} |")
    old = before.splitlines() if before.startswith(lines[0]) else []
    kept = [line for line in old[2:] if _place(line) and cells(line)[0] not in generators]
    return "\n".join([*lines[:2], *sorted([*lines[2:], *kept], key=_place)])


def cells(line: str) -> list[str]:
    """Those of a row of Markdown."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _place(line: str) -> int:
    """Where a row belongs: after the teacher's, in the order of the methods."""
    names = [name for name in METHODS.values() if cells(line)[0].startswith(f"{name}, seed ")]
    return 1 + list(METHODS.values()).index(names[0]) if names else 0


def figure(others: Sequence[Row], generators: Mapping[str, Found], path: Path) -> None:
    """Perplexity by entropy, and MAUVE* by steps."""
    fig = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(fig)
    left, right = fig.subplots(1, 2)
    real = next(row for row in others if row.kind == "real")
    plain = [row for row in others if row.kind == "teacher" and "temperature" not in row.name]
    cold = sorted(frontier_of(others))
    curves = {"teacher": plain, **{name: [row for _, row in rows] for name, rows in generators.items()}}
    left.plot(*zip(*cold, strict=True), color="#999", ls="--", lw=1, label=f"teacher, {OF} steps, colder")
    left.plot(real.metrics["entropy"], real.metrics["perplexity"], "k*", ms=9, label="real text")
    right.axhline(real.metrics["mauve"], color="#555", ls=":", lw=1, label="real text")
    for name, rows in curves.items():
        rows = sorted(rows, key=lambda row: row.steps)
        x, y = ([row.metrics[m] for row in rows] for m in ("entropy", "perplexity"))
        left.plot(x, y, marker="o", ms=4, lw=1, label=name)
        for row, a, b in zip(rows, x, y, strict=True):
            left.annotate(str(row.steps), (a, b), fontsize=7, xytext=(3, 3), textcoords="offset points")
        right.plot([r.steps for r in rows], [r.metrics["mauve"] for r in rows], marker="o", ms=4, label=name)
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
    others, generators = rows_of(given)
    given.results.mkdir(parents=True, exist_ok=True)
    out = given.results / "text.md.inc"
    before = out.read_text() if out.exists() else ""
    out.write_text(table(others, generators, before) + "\n")
    figure(others, generators, given.results / "text.png")


if __name__ == "__main__":
    main()
