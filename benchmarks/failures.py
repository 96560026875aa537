"""Runs that fail, one wrong choice each, on the embedded digits: what their own numbers say of it.

    python benchmarks/failures.py              # about a quarter of an hour of one core
    python benchmarks/failures.py --summary    # train nothing, draw what is finished

Each is the user's command in 600 steps of 32 with one option changed. Table and pictures go to docs/results;
docs/diagnose.md shows them. Runs stay in runs/failures and can be interrupted and continued.
"""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from dimo_core.engine.metrics_log import read_metrics
from dimo_core.errors import NumericalError
from dimo_core.files.folder import Folder
from dimo_core.jobs.distil import distill
from dimo_core.jobs.sample import sample_folder

RUNS, STEPS, EVERY = Path("runs/failures"), 600, 100
BATCH, SAMPLES = 32, 500
DIVERGED = "diverged.txt"

RUNS_OF: Mapping[str, Mapping[str, Any]] = {
    "healthy": {},
    "masks alone": {"generator": {"r_init": 1.0, "sigma_init": 0.0}},
    "beta -0.2": {"divergence": {"name": "jeffrey", "beta": -0.2}},
    "dead auxiliary": {"objective": {"auxiliary": {"lr": 1e-7}}},
    "large rate": {"objective": {"generator": {"lr": 1e-2}}},
}
"""What is changed, by the name of the run."""

COLOURS = ("#2f8f5b", "#c4581f", "#2f6db3", "#a3588c", "#8a7000")
CURVES: Mapping[str, tuple[str, bool]] = {
    "divergence": ("divergence, a masked token", True),
    "auxiliary_loss": ("loss of the auxiliary", False),
    "entropy_theta": ("entropy of the generator's tokens, nats", True),
    "logit_scale": ("scale of the generator's logits", True),
    "grad_norm_generator": ("gradient norm of the generator", True),
    "grad_norm_auxiliary": ("gradient norm of the auxiliary", True),
    "eval/fid": ("FID", True),
    "eval/readable": ("readable share", False),
    "eval/entropy": ("entropy over the digits of a class, nats", False),
}
"""Title, and whether the axis is logarithmic, by the name in metrics.jsonl."""


def home(name: str) -> Path:
    """The folder of a run."""
    return RUNS / name.replace(" ", "_")


def trained(name: str, steps: int) -> Path:
    """Train, continue, or find a finished run; returns its folder."""
    out = home(name)
    if (out / "generator" / "generator.yaml").exists() or (out / DIVERGED).exists():
        return out
    options = {"divergence": {"name": "jeffrey", "beta": 0.2}, **RUNS_OF[name]}
    evaluation = {"every": EVERY, "samples_on_the_way": SAMPLES, "samples": SAMPLES, "steps": [1]}
    train = {"steps": steps, "batch_size": BATCH, "sample_every": 0}
    resume = (out / "config.yaml").exists()
    try:
        distill(out=str(out), train=train, eval=evaluation, device="cpu", resume=resume, **options)
    except NumericalError as error:
        (out / DIVERGED).write_text(f"{error}\n")
    return out


def alarms(out: Path) -> list[str]:
    """What the run itself warned of, in short: the step and what happened."""
    log = (out / "run.log").read_text() if (out / "run.log").exists() else ""
    return re.findall(r"ALARM at (step \d+: .+?)\. ", log)


def table() -> str:
    """The last tenth of each run's numbers, and its alarms, as Markdown."""
    head = "| run | " + " | ".join(f"`{name}`" for name in CURVES) + " | alarm |"
    lines = [head, "|---|" + "--:|" * len(CURVES) + "---|"]
    for name in RUNS_OF:
        found = read_metrics(Folder(str(home(name))))
        cells = []
        for curve in CURVES:
            values = [line[curve] for line in found if curve in line]
            last = values[-1:] if curve.startswith("eval/") else values[-max(1, len(values) // 10) :]
            cells.append(f"{mean(last):.3g}" if last else "-")
        said = "; ".join(alarms(home(name))) or "none"
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {said} |")
    return "\n".join(lines) + "\n"


def curves(path: Path) -> None:
    """Every curve in a panel, every run in a colour."""
    fig = Figure(figsize=(11, 8.4), layout="constrained", facecolor="#fbfbf9")
    FigureCanvasAgg(fig)
    panels = fig.subplots(3, 3).flat
    for ax, (curve, (title, logarithmic)) in zip(panels, CURVES.items(), strict=True):
        for colour, name in zip(COLOURS, RUNS_OF, strict=True):
            points = [(x["step"], x[curve]) for x in read_metrics(Folder(str(home(name)))) if curve in x]
            if points:
                width = 2.2 if name == "healthy" else 1.4
                ax.plot(*zip(*points, strict=True), color=colour, lw=width, label=name)
        ax.set_title(title, fontsize=10)
        ax.set_yscale("log" if logarithmic else "linear")
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
    handles, labels = ax.get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=len(RUNS_OF), frameon=False)
    fig.savefig(path, dpi=110)


def samples(path: Path, columns: int = 20, gap: float = 0.94) -> None:
    """Samples of each run's last generator: a row of even digits over a row of odd ones."""
    shown = [name for name in RUNS_OF if (home(name) / "generator" / "generator.yaml").exists()]
    fig = Figure(figsize=(11, 1.15 * len(shown)), layout="constrained", facecolor="#fbfbf9")
    FigureCanvasAgg(fig)
    for ax, name in zip(fig.subplots(len(shown), 1, squeeze=False)[:, 0], shown, strict=True):
        drawn = home(name) / "drawn"
        if not (drawn / "samples.jsonl").exists():
            sample_folder(str(home(name)), count=2 * columns, conditions=["even", "odd"], out=str(drawn))
        pictures = [np.asarray(Image.open(file).convert("L")) for file in sorted(drawn.glob("[0-9]*.png"))]
        framed = [np.pad(picture / 255, 1, constant_values=gap) for picture in pictures[: 2 * columns]]
        rows = [np.concatenate(framed[parity::2], axis=1) for parity in (0, 1)]
        ax.imshow(np.concatenate(rows), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        ax.set_ylabel(name.replace(" ", "\n"), rotation=0, ha="right", va="center", fontsize=10)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    fig.savefig(path, dpi=110)


def main() -> None:
    """Train, and draw what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--only", choices=RUNS_OF, help="train this run only, and draw nothing")
    parser.add_argument("--summary", action="store_true", help="train nothing, draw what is finished")
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    given = parser.parse_args()
    for name in RUNS_OF:
        if not given.summary and given.only in (None, name):
            trained(name, given.steps)
    if given.only is None:
        given.results.mkdir(parents=True, exist_ok=True)
        (given.results / "failures.md.inc").write_text(table())
        curves(given.results / "failures.png")
        samples(given.results / "failures-samples.png")


if __name__ == "__main__":
    main()
