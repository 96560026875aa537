"""Seconds of a training step of the embedded job, preset against preset: one process, turn by turn.

    python benchmarks/step_cost.py

The cells of the study `presets` take a few steps each in turn, so that whatever else the machine does slows
all of them alike; what counts is the ratio. Writes docs/results/step_cost.md.inc and, for the figures of
even_or_odd.py, runs/studies/step_cost.json.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from even_or_odd import COST, STUDIES

from dimo_core.config.distil import resolve_job
from dimo_core.data.feeds import ConditionFeed
from dimo_core.device import find_device
from dimo_core.engine.loop import Engine
from dimo_core.files.folder import Folder


def engine_of(options: dict, device: torch.device, folder: str) -> Engine:
    """The training of a cell, without evaluation and pictures."""
    job = resolve_job(options)
    stream = job.conditions.open(job.teacher.conditioning, seed=0)
    feed = ConditionFeed(stream=stream, teacher=job.teacher, device=device)
    objective = job.objective.build(job.ingredients())
    return Engine(objective, {"conditions": feed}, job.train, folder=Folder(folder), seed=0, device=device)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--steps", type=int, default=5, help="steps a turn")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    device = find_device(given.device)
    with tempfile.TemporaryDirectory() as folder:
        engines = {name: engine_of(dict(cell), device, folder) for name, cell in STUDIES["presets"].items()}
        seconds: dict[str, list[float]] = {name: [] for name in engines}
        for turn in range(given.rounds + 2):
            for name, engine in engines.items():
                began = time.perf_counter()
                for _ in range(given.steps):
                    engine.take_step()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if turn > 1:  # the first turns warm up
                    seconds[name].append((time.perf_counter() - began) / given.steps)
    base = median(seconds["fast"])
    lines = ["| cell | seconds a step | against `fast` |", "|---|--:|--:|"]
    lines += [f"| {n} | {median(s):.4f} | {median(s) / base:.2f} |" for n, s in seconds.items()]
    print("\n".join(lines))
    COST.parent.mkdir(parents=True, exist_ok=True)
    COST.write_text(json.dumps({name: median(s) for name, s in seconds.items()}))
    Path("docs/results/step_cost.md.inc").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
