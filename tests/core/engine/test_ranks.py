"""Processes that train together take the steps that one would take, and read each other's checkpoints."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

HERE, TESTS = Path(__file__).parent, Path(__file__).parents[2]
NEAR = 1e-9
CASES = ("meissonic/small/paper", "lora/maskgit/small/fast")
MORE = ("maskgit/small/fast", "maskgit/small/paper", "meissonic/small/fast", "lora/meissonic/small/paper")
DATA = ("masked-modelling/masked", "dimo/dmd")


def far_apart(folder: Path, steps: int, layouts: str, *names: str) -> dict[str, float]:
    """What differs from what one process finds."""
    command = [sys.executable, str(HERE / "ranks_program.py"), str(folder), str(steps), layouts, *names]
    paths = os.pathsep.join([str(HERE), str(TESTS), *sys.path])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == len(names) * (len(layouts.split(",")) * 5 - 1)
    return {what: apart for what, apart in found.items() if apart > NEAR}


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    assert far_apart(tmp_path, 6, "2/2", *CASES) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CASES, *MORE, *DATA])
def test_several_processes_train_as_one_does(tmp_path: Path, name: str) -> None:
    """Replicated and sharded; each goes on with what others saved, so also 4 after 2, and 2 after 4."""
    assert far_apart(tmp_path, 20, "2/1,4/1,2/2,4/2,4/4", name) == {}


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
