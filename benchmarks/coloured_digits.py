"""The result on the embedded teacher of scenes: `dimo run --teacher meissonic` with three seeds.

    python benchmarks/coloured_digits.py

Writes docs/results/scenes.md.inc; runs stay in runs/studies/scenes, and a finished one is kept.
"""

import json
from pathlib import Path
from statistics import mean, stdev

from dimo_core.jobs.distil import distill

SEEDS = (0, 1, 2)
TAGS = ("single_object", "colors", "two_object", "position", "color_attr")
SHOWN = ("overall", *TAGS, "readable", "fid", "precision", "recall")
TEACHER, GENERATOR = "teacher, 32 steps", "generator, 1 step"


def run_one(seed: int) -> Path:
    """Run, continue, or find finished; returns the folder."""
    out = Path(f"runs/studies/scenes/seed{seed}")
    if not (out / "evaluation.json").exists():
        resume = (out / "config.yaml").exists()
        distill(teacher={"name": "meissonic"}, seed=seed, out=str(out), device="cpu", resume=resume)
    return out


def rows_of(out: Path) -> dict[str, dict[str, float]]:
    """The rows of a finished run: name to numbers."""
    rows = json.loads((out / "evaluation.json").read_text())["rows"]
    return {row["name"]: {"passes": row["passes"], **row["metrics"]} for row in rows}


def line(name: str, found: list[dict[str, float]], reference: list[dict[str, float]]) -> str:
    """One row of the table: mean and deviation over seeds, and the share of the reference's overall score."""
    share = [a["overall"] / b["overall"] for a, b in zip(found, reference, strict=True)]
    cells = [spread(values) for values in ([row[key] for row in found] for key in SHOWN)]
    return f"| {name} | {found[0]['passes'] or '-'} | {spread(share)} | {' | '.join(cells)} |"


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    return f"{mean(values):.3f} ± {stdev(values):.3f}"


def main() -> None:
    """Run what is not finished and write the table."""
    runs = [rows_of(run_one(seed)) for seed in SEEDS]
    lines = [f"| samples of | passes | share of {TEACHER} | {' | '.join(SHOWN)} |"]
    lines.append("|---|" + "--:|" * (len(SHOWN) + 2))
    teacher = [rows[TEACHER] for rows in runs]
    for name in sorted(runs[0], key=lambda name: (name == GENERATOR, name.startswith("real"))):
        label = f"**{name}**" if name == GENERATOR else name
        lines.append(line(label, [rows[name] for rows in runs], teacher))
    Path("docs/results/scenes.md.inc").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
