"""The paper's ablations on the embedded digits: one factor at a time, in short runs.

    python benchmarks/paper_ablations.py                # about two hours on two cores
    python benchmarks/paper_ablations.py --summary      # train nothing, summarise what is finished

Everything can be interrupted: the same command goes on where it was. Runs and numbers stay in runs/paper;
table and figure go to docs/results (--results). One factor is varied, the others are those of BASE; a run
that diverged says so, and so does a cell that was not measured. The sampling temperature is varied on the
generators of BASE, without training.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from paper_table import DIVERGED, RUNS, SEEDS, Options, finished, generators, merged, spread, trained

from dimo_core.evaluation.table import Row, Table
from dimo_core.jobs.compare import Comparing, compare
from dimo_core.jobs.compared import TeacherRows
from dimo_core.registry import Registry

SHORT = 600
SHOWN = ("fid", "readable", "accuracy", "entropy", "precision", "recall", "density", "coverage")
TEMPERATURES = (0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
SAMPLING = "sampling temperature"
Cells = dict[tuple[str, str], list[Row]]

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


def ablations(given: argparse.Namespace) -> None:
    """Short runs on the digits, one factor at a time; all are judged by one protocol."""
    home = RUNS / f"ablations{given.train_steps}"
    runs: dict[tuple[str, str], list[str]] = {}
    for factor, value, options in cells():
        whole = merged(options)
        stem = home / ("base" if whole == merged({}) else f"{factor}-{value}")
        outs = [stem / f"seed{seed}" for seed in given.seeds]
        if not given.summary and (not given.only or factor in given.only):
            for seed, out in zip(given.seeds, outs, strict=True):
                trained(out, seed, given.train_steps, {"teacher": {"name": "maskgit"}, **whole})
        runs[factor, value] = [str(out) for out in outs if finished(out)]
    names = list(dict.fromkeys(out for outs in runs.values() for out in outs))
    if not names:
        raise SystemExit("nothing is finished yet: run this without --summary")
    found = judged(home / "judged", names, given, TeacherRows(steps=(16, 1)))
    rows = dict(zip(names, generators(found), strict=True))
    table: Cells = {cell: [rows[out] for out in outs] for cell, outs in runs.items()}
    base = [str(out) for seed in given.seeds if finished(out := home / "base" / f"seed{seed}")]
    if base:
        swept = generators(judged(home / "swept", base, given, None, temperatures=TEMPERATURES))
        for value in TEMPERATURES:
            table[SAMPLING, f"{value:g}"] = [row for row in swept if row.temperature == value]
    given.results.mkdir(parents=True, exist_ok=True)
    write_table(table, found, home, given)
    figure(table, found, given.results / "ablations.png")


def judged(
    out: Path,
    paths: Sequence[str],
    given: argparse.Namespace,
    rows: TeacherRows | None,
    temperatures: Sequence[float] = (),
) -> Table:
    """Numbers of some generators, and of the teacher."""
    registry = Registry.discover()
    comparing = Comparing(
        out=f"{out}{given.samples or ''}",
        rows=rows,
        generators=tuple(paths),
        changes={"samples": given.samples, "temperatures": tuple(temperatures) or None},
        device="cpu",
        command="python benchmarks/paper_ablations.py",
    )
    found = compare(registry.load("teacher", "maskgit")(), comparing, registry)
    assert found is not None
    return found


def cells() -> list[tuple[str, str, Options]]:
    """Factor, value and options of every cell."""
    return [
        (factor, value, options) for factor, values in FACTORS.items() for value, options in values.items()
    ]


def write_table(table: Cells, found: Table, home: Path, given: argparse.Namespace) -> None:
    """One Markdown table for all factors, and the same as JSON."""
    head = "| factor | value | runs | " + " | ".join(SHOWN) + " |"
    lines = [head, "|---|---|--:|" + "--:|" * len(SHOWN)]
    for row in found.rows:
        if row.kind != "generator":
            numbers = " | ".join(f"{row.metrics[m]:.3f}" if m in row.metrics else "-" for m in SHOWN)
            lines.append(f"| {row.name} | | | {numbers} |")
    for (factor, value), rows in table.items():
        base = factor in FACTORS and merged(FACTORS[factor][value]) == merged({})
        mark, stem = (" (base)", "base") if base else ("", f"{factor}-{value}")
        lost = sum((home / stem / f"seed{seed}" / DIVERGED).exists() for seed in given.seeds)
        count = f"{len(rows)}{f', {lost} diverged' if lost else ''}"
        numbers = " | ".join(spread(rows, m) for m in SHOWN)
        if not rows:
            count, numbers = ("diverged" if lost else "not measured"), " | ".join("-" for _ in SHOWN)
        lines.append(f"| {factor} | {value}{mark} | {count} | {numbers} |")
    note = f"{given.train_steps} steps, mean ± standard deviation over the runs, one seed of the draws."
    (given.results / "ablations.md.inc").write_text("\n".join([*lines, "", note]) + "\n")
    data = {" ".join(cell): [dict(row.metrics) for row in rows] for cell, rows in table.items()}
    (home / "ablations.json").write_text(json.dumps(data, indent=1))


def figure(table: Cells, found: Table, path: Path) -> None:
    """FID, readable share and entropy by the value of each factor that is a number."""
    named = {"divergence"}
    factors = [name for name in dict.fromkeys(factor for factor, _ in table) if name not in named]
    teacher = next(row for row in found.rows if row.kind == "teacher").metrics
    shown = ("fid", "readable", "entropy")
    fig = Figure(figsize=(2.6 * len(factors), 6.6), layout="constrained")
    FigureCanvasAgg(fig)
    axes = fig.subplots(len(shown), len(factors), sharey="row", squeeze=False)
    for column, factor in enumerate(factors):
        points = [(float(value), rows) for (name, value), rows in table.items() if name == factor and rows]
        for ax, metric in zip(axes[:, column], shown, strict=True):
            known = [
                (x, [row.metrics[metric] for row in rows if metric in row.metrics]) for x, rows in points
            ]
            x, values = [x for x, each in known if each], [each for _, each in known if each]
            spreads = [stdev(each) if len(each) > 1 else 0.0 for each in values]
            ax.errorbar(x, list(map(mean, values)), spreads, marker="o", color="#c04f15", capsize=3, lw=1.5)
            ax.axhline(teacher[metric], color="#555", ls=":", lw=1)
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(alpha=0.25)
            if column == 0:
                ax.set_ylabel(metric)
        axes[0, column].set_title(factor.replace("_", " "), fontsize=10)
    axes[0, 0].set_yscale("log")
    fig.savefig(path, dpi=110)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--samples", type=int, help="samples a row (default: the protocol's)")
    parser.add_argument("--train-steps", type=int, default=SHORT)
    parser.add_argument("--only", nargs="+", choices=FACTORS, help="train for these factors only")
    parser.add_argument("--summary", action="store_true", help="train nothing; summarise what is finished")
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    ablations(parser.parse_args())


if __name__ == "__main__":
    main()
