"""The paper's table on an embedded teacher with every sampler, and the paper's ablations on the digits.

    python benchmarks/paper_table.py table --teacher maskgit      # about an hour on two cores
    python benchmarks/paper_table.py table --teacher meissonic
    python benchmarks/paper_table.py ablations                    # about two hours
    python benchmarks/paper_table.py ablations --summary          # run nothing, summarise what is finished

Everything can be interrupted: the same command goes on where it was. Runs and numbers stay in runs/paper;
tables and figures go to docs/results (--results). One factor is varied at a time, the others are those of
BASE; a run that diverged says so, and so does a cell that was not measured.
"""

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from loguru import logger

from dimo_core.choice import Choice
from dimo_core.compare import Comparing, compare
from dimo_core.errors import NumericalError
from dimo_core.lineup import TeacherRows
from dimo_core.registry import Registry
from dimo_core.run import distill
from dimo_core.table import Row, Table

RUNS, SEEDS, SHORT = Path("runs/paper"), (0, 1, 2), 600
SHOWN = ("fid", "readable", "accuracy", "entropy", "precision", "recall", "density", "coverage")
DIVERGED = "diverged.txt"
Options = Mapping[str, Any]

BASE: Options = {
    "divergence": {"name": "jeffrey", "beta": 0.2},
    "generator": {"name": "one_step", "r_init": 0.6, "sigma_init": 0.1},
    "objective": {"name": "dimo", "teacher_temperature": 0.85},
    "guidance": {"name": "constant", "scale": 1.0},
}
"""The user's command: `dimo run --teacher maskgit --divergence jeffrey --beta 0.2`."""

FAMILY = ("fkl", "rkl", "js", "hellinger", "triangular", "tv", "alpha", "skew-rkl")

FACTORS: Mapping[str, Mapping[str, Options]] = {
    "r_init": {str(x): {"generator": {"r_init": x}} for x in (0.0, 0.3, 0.6, 0.8, 1.0)},
    "sigma_init": {str(x): {"generator": {"sigma_init": x}} for x in (0.0, 0.1, 0.3, 0.6, 1.0)},
    "beta": {str(x): {"divergence": {"beta": x}} for x in (-0.2, 0.0, 0.2, 0.5, 1.0)},
    "divergence": {name: {"divergence": {"name": name}} for name in FAMILY},
    "teacher_temperature": {
        str(x): {"objective": {"teacher_temperature": x}} for x in (0.7, 0.85, 1.0, 1.15)
    },
    "guidance": {str(x): {"guidance": {"scale": x}} for x in (1.0, 1.5, 2.0, 3.0)},
}


def merged(options: Options) -> dict[str, Any]:
    """BASE with one factor changed; another plugin brings options of its own."""
    found = {kind: dict(section) for kind, section in BASE.items()}
    for kind, section in options.items():
        other = section.get("name", found[kind]["name"]) != found[kind]["name"]
        found[kind] = dict(section) if other else {**found[kind], **section}
    return found


def trained(out: Path, seed: int, steps: int | None, options: Options) -> Path | None:
    """Train, continue, or find a finished generator; None when it diverged."""
    if (out / "generator" / "generator.yaml").exists():
        return out
    if (out / DIVERGED).exists():
        return None
    train = {} if steps is None else {"steps": steps}
    resume = (out / "config.yaml").exists()
    try:
        distill(
            seed=seed,
            out=str(out),
            train=train,
            eval={"enabled": False},
            device="cpu",
            resume=resume,
            **options,
        )
    except NumericalError as error:
        logger.warning("{} diverged: {}", out, error)
        (out / DIVERGED).write_text(f"{error}\n")
        return None
    return out


def table(given: argparse.Namespace) -> None:
    """Every sampler at every number of steps, and the generators of all seeds."""
    registry, home = Registry.discover(), RUNS / given.teacher
    generators = given.generators
    if generators is None:
        options = {"teacher": {"name": given.teacher}, **({} if given.teacher != "maskgit" else merged({}))}
        short = "" if given.train_steps is None else f"{given.train_steps}-steps-"
        runs = [trained(home / f"{short}seed{s}", s, given.train_steps, options) for s in given.seeds]
        generators = [str(run) for run in runs if run is not None]
    rows = TeacherRows(
        samplers=tuple(map(Choice, registry.names("sampler"))), steps=tuple(given.sampling_steps or ())
    )
    found = compare(
        registry.load("teacher", given.teacher)(),
        Comparing(
            out=str(home / f"table{given.samples or ''}"),
            rows=rows,
            generators=tuple(generators),
            changes={"seeds": tuple(given.seeds), "samples": given.samples},
            device="cpu",
            command=f"python benchmarks/paper_table.py table --teacher {given.teacher}",
        ),
        registry,
    )
    assert found is not None
    publish(found, home / f"table{given.samples or ''}", given.results, given.teacher, len(given.seeds))


def publish(found: Table, home: Path, results: Path, name: str, seeds: int) -> None:
    """The Markdown table, with a row for all generators, and the figures."""
    results.mkdir(parents=True, exist_ok=True)
    lines = [found.markdown()]
    generators = [row for row in found.rows if row.kind == "generator"]
    if not generators:
        lines.append("\nGenerators: not measured.")
    elif len(generators) > 1:
        over = ", ".join(f"{metric} {spread(generators, metric)}" for metric in found.metrics)
        lines.append(f"\nOver {len(generators)} trained generators: {over}.")
    lines += [
        f"\n± is the standard deviation over {seeds} seeds of the draws.",
        *map("\n* {}".format, found.notes),
    ]
    (results / f"table-{name}.md.inc").write_text("\n".join(lines) + "\n")
    for plot in sorted((home / "plots").glob("*.png")):
        shutil.copy(plot, results / f"table-{name}-{plot.stem.removeprefix('quality_by_')}.png")
    if (grid := home / "samples" / "grid.png").exists():
        shutil.copy(grid, results / f"table-{name}-grid.png")


def ablations(given: argparse.Namespace) -> None:
    """Short runs on the digits, one factor at a time; all are judged by one protocol in one folder."""
    home = RUNS / f"ablations{given.train_steps}"
    runs: dict[tuple[str, str], list[Path]] = {}
    for factor, value, options in cells(given.only):
        whole = merged(options)
        base = whole == merged({})
        stem = home / ("base" if base else f"{factor}-{value}")
        outs = [stem / f"seed{seed}" for seed in given.seeds]
        if not given.summary:
            for seed, out in zip(given.seeds, outs, strict=True):
                trained(out, seed, given.train_steps, {"teacher": {"name": "maskgit"}, **whole})
        runs[factor, value] = [out for out in outs if (out / "generator" / "generator.yaml").exists()]
    finished = list(dict.fromkeys(str(out) for outs in runs.values() for out in outs))
    rows: dict[str, Row] = {}
    found = None
    if finished:
        registry = Registry.discover()
        found = compare(
            registry.load("teacher", "maskgit")(),
            Comparing(
                out=str(home / f"judged{given.samples or ''}"),
                rows=TeacherRows(steps=(16, 1)),
                generators=tuple(finished),
                changes={"samples": given.samples},
                device="cpu",
                command="python benchmarks/paper_table.py ablations",
            ),
            registry,
        )
        assert found is not None
        drawn = [row for row in found.rows if row.kind == "generator"]
        rows = dict(zip(finished, drawn, strict=True))
    judged = {cell: [rows[str(out)] for out in outs] for cell, outs in runs.items()}
    write_ablations(judged, found, home, given)


def cells(only: Sequence[str] | None) -> list[tuple[str, str, Options]]:
    """Factor, value and options of every cell."""
    return [
        (factor, value, options)
        for factor, values in FACTORS.items()
        if not only or factor in only
        for value, options in values.items()
    ]


def write_ablations(
    judged: Mapping[tuple[str, str], list[Row]], found: Table | None, home: Path, given: argparse.Namespace
) -> None:
    """One Markdown table for all factors, and the same as JSON."""
    given.results.mkdir(parents=True, exist_ok=True)
    head = "| factor | value | runs | " + " | ".join(SHOWN) + " |"
    lines = [head, "|---|---|--:|" + "--:|" * len(SHOWN)]
    for row in found.rows if found is not None else ():
        if row.kind != "generator":
            numbers = " | ".join(f"{row.metrics[m]:.3f}" if m in row.metrics else "-" for m in SHOWN)
            lines.append(f"| {row.name} | | | {numbers} |")
    for (factor, value), rows in judged.items():
        base = merged(FACTORS[factor][value]) == merged({})
        mark, stem = (" (base)", "base") if base else ("", f"{factor}-{value}")
        lost = len(list(home.glob(f"{stem}/*/{DIVERGED}")))
        count = f"{len(rows)}{f', {lost} diverged' if lost else ''}"
        numbers = " | ".join(spread(rows, m) for m in SHOWN)
        if not rows:
            count, numbers = ("diverged" if lost else "not measured"), " | ".join("-" for _ in SHOWN)
        lines.append(f"| {factor} | {value}{mark} | {count} | {numbers} |")
    note = f"{given.train_steps} steps, mean ± standard deviation over the runs, one seed of the draws."
    (given.results / "ablations.md.inc").write_text("\n".join([*lines, "", note]) + "\n")
    data = {
        f"{factor} {value}": [dict(row.metrics) for row in rows] for (factor, value), rows in judged.items()
    }
    (home / "ablations.json").write_text(json.dumps(data, indent=1))


def spread(rows: Sequence[Row], metric: str) -> str:
    """Mean and standard deviation over runs."""
    values = [row.metrics[metric] for row in rows if metric in row.metrics]
    if not values:
        return "-"
    return f"{mean(values):.3f}" + (f" ±{stdev(values):.3f}" if len(values) > 1 else "")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one, two = commands.add_parser("table"), commands.add_parser("ablations")
    for each in (one, two):
        each.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
        each.add_argument("--samples", type=int, help="samples a row (default: the protocol's)")
        each.add_argument("--results", type=Path, default=Path("docs/results"))
    one.add_argument("--teacher", default="maskgit")
    one.add_argument("--sampling-steps", type=int, nargs="+")
    one.add_argument("--generators", nargs="*", help="use these, and train none")
    one.add_argument("--train-steps", type=int, help="steps of each generator (default: the preset's)")
    two.add_argument("--train-steps", type=int, default=SHORT)
    two.add_argument("--only", nargs="+", choices=FACTORS, help="these factors only")
    two.add_argument(
        "--summary", action="store_true", help="train nothing; judge and summarise what is finished"
    )
    given = parser.parse_args()
    {"table": table, "ablations": ablations}[given.command](given)


if __name__ == "__main__":
    main()
