"""The studies of docs/results on the embedded digits: each run is a `dimo run`, and a finished one is kept.

    python benchmarks/even_or_odd.py main      # the user's command and beta -0.2, three seeds
    python benchmarks/even_or_odd.py claim     # the paper's claim on r_init, at sigma_init = 0
    python benchmarks/even_or_odd.py presets   # paper against fast; after step_cost.py also by seconds

Tables and figures go to docs/results; runs stay in runs/studies and can be interrupted and continued.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from dimo_core.engine.metrics_log import read_metrics
from dimo_core.files.folder import Folder
from dimo_core.jobs.distil import distill

SHOWN = ("fid", "readable", "accuracy", "entropy", "precision", "recall", "is", "density", "coverage")
SEEDS = (0, 1, 2)
COLOURS = ("#b3541e", "#2f6db3", "#3f8f4f")
COST = Path("runs/studies/step_cost.json")
Study = Mapping[str, Mapping[str, Any]]

STUDIES: Mapping[str, Study] = {
    "main": {
        "beta 0.2": {"divergence": {"name": "jeffrey", "beta": 0.2}},
        "beta -0.2": {  # at the preset's rates and temperature it diverges
            "divergence": {"name": "jeffrey", "beta": -0.2},
            "objective": {"teacher_temperature": 1.0, "generator": {"lr": 2e-4}, "auxiliary": {"lr": 1e-3}},
        },
    },
    "claim": {
        "r_init 1.0": {"generator": {"r_init": 1.0, "sigma_init": 0.0}},
        "r_init 0.6": {"generator": {"r_init": 0.6, "sigma_init": 0.0}},
    },
    "presets": {
        "fast": {"preset": "fast"},
        "fast, fresh rollout": {"preset": "fast", "objective": {"rollout": "fresh"}},
        "paper": {"preset": "paper"},
    },
}


def run_one(study: str, name: str, options: Mapping[str, Any], seed: int, steps: int | None) -> Path:
    """Run, continue, or find finished one cell of a study; returns its folder."""
    out = folder(study, name, seed)
    if finished(out):
        return out
    train = {} if steps is None else {"steps": steps}
    on_the_way = {"every": 300, "samples_on_the_way": 2000}
    resume = (out / "config.yaml").exists()
    distill(seed=seed, out=str(out), train=train, eval=on_the_way, device="cpu", resume=resume, **options)
    return out


def finished(out: Path) -> bool:
    """Whether a run has its table."""
    return (out / "evaluation.json").exists()


def rows_of(out: Path) -> dict[str, dict[str, float]]:
    """The rows of a finished run: name to numbers."""
    table = json.loads((out / "evaluation.json").read_text())
    return {
        row["name"]: {"passes": row["passes"], "seconds": row["seconds"], **row["metrics"]}
        for row in table["rows"]
    }


def summary(study: str, seeds: tuple[int, ...]) -> str:
    """Mean and spread over seeds as Markdown, the teacher's rows first."""
    head = "| samples of | passes | " + " | ".join(SHOWN) + " |"
    lines = [head, "|---|" + "--:|" * (len(SHOWN) + 1)]
    runs = {
        name: [rows_of(out) for out in (folder(study, name, seed) for seed in seeds) if finished(out)]
        for name in STUDIES[study]
    }
    every = [rows for found in runs.values() for rows in found]
    for name in every[0]:
        if name.startswith(("teacher", "real")):
            lines.append(line(name, [rows[name] for rows in every]))
    for name, found in runs.items():
        label = f"generator, {name} ({len(found)} seeds)"
        if found:
            lines.append(line(label, [rows["generator, 1 step"] for rows in found]))
        else:
            lines.append(f"| {label} | not measured |" + " |" * len(SHOWN))
    return "\n".join(lines)


def folder(study: str, name: str, seed: int) -> Path:
    """Where a cell's run is."""
    return Path("runs/studies") / study / f"{name.replace(' ', '_')}_seed{seed}"


def line(name: str, found: list[dict[str, float]]) -> str:
    """One row of the Markdown table."""
    cells = []
    for metric in SHOWN:
        values = [rows[metric] for rows in found]
        spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
        cells.append(f"{mean(values):.3f}{spread}")
    passes = found[0]["passes"]
    return f"| {name} | {passes or '-'} | " + " | ".join(cells) + " |"


def figure(study: str, seeds: tuple[int, ...], path: Path) -> None:
    """FID, readable share and entropy on the way, one line a run, one colour a cell.

    Where the cells' seconds a step were measured (step_cost.py), a second row shows the same by seconds.
    """
    names = ("fid", "readable", "entropy")
    cost = json.loads(COST.read_text()) if study == "presets" and COST.exists() else None
    scales = {"step": dict.fromkeys(STUDIES[study], 1.0), **({"seconds of training": cost} if cost else {})}
    fig = Figure(figsize=(11, 3.4 * len(scales)), layout="constrained")
    FigureCanvasAgg(fig)
    rows = fig.subplots(len(scales), 3, squeeze=False)
    teacher = rows_of(folder(study, next(iter(STUDIES[study])), seeds[0]))["teacher, 16 steps"]
    for axes, (unit, scale) in zip(rows, scales.items(), strict=True):
        for colour, name in zip(COLOURS, STUDIES[study], strict=False):
            for seed in (seed for seed in seeds if finished(folder(study, name, seed))):
                lines = [x for x in read_metrics(Folder(str(folder(study, name, seed)))) if "eval/fid" in x]
                x = [line["step"] * scale[name] for line in lines]
                for ax, metric in zip(axes, names, strict=True):
                    y = [line[f"eval/{metric}"] for line in lines]
                    ax.plot(x, y, color=colour, label=name if seed == seeds[0] else None)
        for ax, metric in zip(axes, names, strict=True):
            ax.axhline(teacher[metric], color="#555", ls=":", label="teacher, 16 steps")
            ax.set(title=metric, xlabel=unit)
            ax.spines[["top", "right"]].set_visible(False)
        axes[0].set_yscale("log")
        axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes[0].yaxis.set_major_formatter("{x:.2g}")
        axes[0].yaxis.set_minor_formatter(NullFormatter())
    rows[0, 0].legend(frameon=False)
    fig.savefig(path, dpi=110)


def main() -> None:
    """Run a study and write its results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--only", help="run this cell only, and write no summary")
    parser.add_argument("--summary", action="store_true", help="run nothing, summarise what is finished")
    given = parser.parse_args()
    seeds = tuple(given.seeds)
    for seed in seeds:
        for name, options in STUDIES[given.study].items():
            if given.only in (None, name) and not given.summary:
                run_one(given.study, name, options, seed, given.steps)
    if given.only is None:
        results = Path("docs/results")
        (results / f"{given.study}.md.inc").write_text(summary(given.study, seeds) + "\n")
        figure(given.study, seeds, results / f"{given.study}.png")


if __name__ == "__main__":
    main()
