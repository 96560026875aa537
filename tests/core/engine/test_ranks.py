"""Processes that train together take the steps that one would take, and read each other's checkpoints."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import ranks_program as program  # noqa: E402

NEAR = 1e-9
CASES = ("maskgit/small/fast", "meissonic/small/paper", "lora/maskgit/small/fast", "masked-modelling/masked")
MORE = ("maskgit/small/paper", "meissonic/small/fast", "lora/meissonic/small/paper", "dimo/dmd")
LAYOUTS = ((2, 1), (4, 1), (2, 2), (4, 2), (4, 4))
"""Processes, and over how many of them weights are split: each goes on with what the one before it saved."""


def launched(count: int, *words: str) -> None:
    """Run the program in several processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    done = subprocess.run(
        [*command, str(HERE / "ranks_program.py"), *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def checked(layouts: Sequence[tuple[int, int]], steps: int, folder: Path, names: Sequence[str]) -> None:
    """All that is promised of each layout: from the first step, and from its checkpoints and others."""
    expected, found, before = {}, {}, "alone"
    for name in names:
        expected[name] = program.all_steps(name, steps, folder / "alone")
        file = folder / "expected" / f"{name}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(expected[name], file)
    for count, shards in layouts:
        own = f"{count} over {shards}"
        places = ",".join(dict.fromkeys((own, "alone", before)))
        launched(count, str(shards), str(steps), str(folder), places, *names)
        found |= json.loads((folder / own / "found.json").read_text())
        for name in names:
            found[f"{name}: {own}, then alone"] = program.apart(
                program.rest(name, steps, folder / own), expected[name]
            )
        before = own
    assert {what: apart for what, apart in found.items() if apart > NEAR} == {}


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    checked([(2, 2)], 6, tmp_path, CASES)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CASES, *MORE])
def test_several_processes_train_as_one_does(tmp_path: Path, name: str) -> None:
    checked(LAYOUTS, 20, tmp_path, [name])


@pytest.mark.slow
def test_a_lost_process_costs_what_came_after_the_last_checkpoint(tmp_path: Path) -> None:
    """Its launcher starts all again, and they end bitwise where they would have ended."""
    train = ["--train.batch_size=8", "--train.checkpoint_every=5", "--train.log_every=1", "--steps=40"]
    words = ["run", "--resume=auto", *train, "--train.sample_every=0", "--eval.enabled=false", "--device=cpu"]

    def run(out: Path) -> "subprocess.Popen[bytes]":
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command = [*torchrun, "--max-restarts", "1", "-m", "dimo_core", *words, "--out", str(out)]
        return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(whole).wait(300) == 0
    process = run(broken)
    while not (broken / "checkpoints/step_000010/manifest.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(max(map(int, children)), signal.SIGKILL)
    assert process.wait(300) == 0
    expected, found = (load_file(out / "generator/generator.safetensors") for out in (whole, broken))
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    steps = [json.loads(line)["step"] for line in (broken / "metrics.jsonl").read_text().splitlines()]
    assert steps == [*range(1, 41)]
