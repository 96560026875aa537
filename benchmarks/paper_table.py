"""The paper's table on an embedded teacher: every sampler at every number of steps, and generators.

    python benchmarks/paper_table.py --teacher maskgit
    python benchmarks/paper_table.py --teacher meissonic

Trains a generator for each seed unless --generators names some. Everything can be interrupted: the same
command goes on where it was. Runs and numbers stay in runs/paper; tables and figures go to docs/results
(--results).
"""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from loguru import logger

from dimo_core.choice import Choice
from dimo_core.errors import NumericalError
from dimo_core.evaluation.table import Row, Table
from dimo_core.jobs.compare import Comparing, compare
from dimo_core.jobs.compared import TeacherRows
from dimo_core.jobs.distil import distill
from dimo_core.registry import Registry

RUNS, SEEDS = Path("runs/paper"), (0, 1, 2)
DIVERGED = "diverged.txt"
Options = Mapping[str, Any]

BASE: Options = {
    "divergence": {"name": "jeffrey", "beta": 0.2},
    "generator": {"name": "one_step", "r_init": 0.6, "sigma_init": 0.1},
    "objective": {"name": "dimo", "teacher_temperature": 0.85},
    "guidance": {"name": "constant", "scale": 1.0},
}
"""The user's command: `dimo run --teacher maskgit --divergence jeffrey --beta 0.2`."""


def merged(options: Options) -> dict[str, Any]:
    """BASE with one factor changed; another plugin brings options of its own."""
    found = {kind: dict(section) for kind, section in BASE.items()}
    for kind, section in options.items():
        other = section.get("name", found[kind]["name"]) != found[kind]["name"]
        found[kind] = dict(section) if other else {**found[kind], **section}
    return found


def finished(out: Path) -> bool:
    """Whether a run has its generator."""
    return (out / "generator" / "generator.yaml").exists()


def trained(out: Path, seed: int, steps: int | None, options: Options) -> Path | None:
    """Train, continue, or find a finished generator; None when it diverged."""
    if finished(out):
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
    paths = given.generators
    if paths is None:
        options = {"teacher": {"name": given.teacher}, **({} if given.teacher != "maskgit" else merged({}))}
        short = "" if given.train_steps is None else f"{given.train_steps}-steps-"
        runs = [trained(home / f"{short}seed{s}", s, given.train_steps, options) for s in given.seeds]
        paths = [str(run) for run in runs if run is not None]
    rows = TeacherRows(
        samplers=tuple(map(Choice, registry.names("sampler"))), steps=tuple(given.sampling_steps or ())
    )
    found = compare(
        registry.load("teacher", given.teacher)(),
        Comparing(
            out=str(home / f"table{given.samples or ''}"),
            rows=rows,
            generators=tuple(paths),
            changes={"seeds": tuple(given.seeds), "samples": given.samples},
            device="cpu",
            command=f"python benchmarks/paper_table.py --teacher {given.teacher}",
        ),
        registry,
    )
    assert found is not None
    publish(found, home / f"table{given.samples or ''}", given.results, given.teacher, len(given.seeds))


def publish(found: Table, home: Path, results: Path, name: str, seeds: int) -> None:
    """The Markdown table, with a row for all generators, and the figures."""
    results.mkdir(parents=True, exist_ok=True)
    lines = [found.markdown()]
    rows = generators(found)
    if not rows:
        lines.append("\nGenerators: not measured.")
    elif len(rows) > 1:
        over = ", ".join(f"{metric} {spread(rows, metric)}" for metric in found.metrics)
        lines.append(f"\nOver {len(rows)} trained generators: {over}.")
    several = f"± is the standard deviation over {seeds} seeds of the draws."
    lines.append(f"\n{several if seeds > 1 else 'One seed of the draws.'}")
    lines += map("\n* {}".format, found.notes)
    (results / f"table-{name}.md.inc").write_text("\n".join(lines) + "\n")
    for plot in sorted((home / "plots").glob("*.png")):
        shutil.copy(plot, results / f"table-{name}-{plot.stem.removeprefix('quality_by_')}.png")
    if (grid := home / "samples" / "grid.png").exists():
        shutil.copy(grid, results / f"table-{name}-grid.png")


def generators(table: Table) -> list[Row]:
    """The rows of generators, in their order."""
    return [row for row in table.rows if row.kind == "generator"]


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
    parser.add_argument("--teacher", default="maskgit")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--samples", type=int, help="samples a row (default: the protocol's)")
    parser.add_argument("--sampling-steps", type=int, nargs="+", help="default: those of the teacher's plan")
    parser.add_argument("--generators", nargs="*", help="use these, and train none")
    parser.add_argument("--train-steps", type=int, help="steps of each generator (default: the preset's)")
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    table(parser.parse_args())


if __name__ == "__main__":
    main()
