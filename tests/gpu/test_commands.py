"""Commands on the device, as people call them."""

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
from torch import Tensor

from dimo_core.cli import main
from dimo_core.engine.metrics_log import read_metrics
from dimo_core.files.folder import Folder

pytestmark = pytest.mark.gpu

PLAIN = """
import sys, torch
for kind in ("flash", "mem_efficient", "cudnn"):
    getattr(torch.backends.cuda, f"enable_{kind}_sdp")(False)
from dimo_core.cli import main
sys.exit(main())
"""
"""`dimo` with attention by the plain formula: backward passes of the fused kernels add in no fixed order."""


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("teacher", ["maskgit", "meissonic"])
def test_a_run_is_evaluated_and_its_generator_is_sampled_and_compared(
    tmp_path: Path, teacher: str, precision: str, device: torch.device
) -> None:
    run = ["run", "--teacher", teacher, "--device", str(device), "--train.batch_size", "8"]
    few = ["--steps", "3", "--eval.samples", "32", "--eval.steps", "[1]", "--train.precision", precision]
    assert 0 == main([*run, *few, "--train.accumulate", "1", "--out", str(tmp_path / "run")])
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    assert 3 == read_metrics(Folder(str(tmp_path / "run")))[-1]["step"]
    generator = str(tmp_path / "run" / "generator")
    sample = ["sample", generator, "--count", "4", "--device", str(device), "--precision", precision]
    assert 0 == main([*sample, "--out", str(tmp_path / "samples")])
    assert 4 == len((tmp_path / "samples" / "samples.jsonl").read_text().splitlines())
    compare = ["compare", "--sampling-steps", "2", "--samplers", "maskgit", "halton", "theta-trapezoidal"]
    asked = ["--generators", generator, "--samples", "16", "--device", str(device)]
    assert 0 == main([*compare, *asked, "--out", str(tmp_path / "compared")])
    found = json.loads((tmp_path / "compared" / "results.json").read_text())
    assert 4 == sum(row["kind"] != "real" for row in found["rows"])


def start(out: Path, device: torch.device, *arguments: str) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "DIMO_LOG_LEVEL": "WARNING"}
    return subprocess.Popen([sys.executable, "-c", PLAIN, "run", *arguments], env=environment)


def begun(out: Path, device: torch.device, teacher: str) -> "subprocess.Popen[bytes]":
    job = ["--teacher", teacher, "--device", str(device), "--eval.enabled", "false", "--out", str(out)]
    steps = ["--steps", "12", "--train.checkpoint_every", "4", "--train.log_every", "1"]
    small = ["--train.batch_size", "8", "--train.accumulate", "1", "--train.sample_every", "0"]
    return start(out, device, *job, *steps, *small)


def final(out: Path) -> dict[str, Tensor]:
    files = sorted((out / "checkpoints" / "step_000012").glob("*.safetensors"))
    return {f"{file.name}/{name}": tensor for file in files for name, tensor in load_file(str(file)).items()}


@pytest.mark.parametrize("teacher", ["maskgit", "meissonic"])
def test_a_run_that_was_killed_is_resumed_bitwise(tmp_path: Path, teacher: str, device: torch.device) -> None:
    assert 0 == begun(tmp_path / "whole", device, teacher).wait(timeout=300)
    killed = tmp_path / "killed"
    process = begun(killed, device, teacher)
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        lines = read_metrics(Folder(str(killed)))
        if lines and lines[-1]["step"] >= 6:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.01)
    assert -signal.SIGKILL == process.wait(timeout=60), "the run ended before it could be killed"
    assert 0 == start(killed, device, "--resume", str(killed)).wait(timeout=300)
    expected, found = final(tmp_path / "whole"), final(killed)
    assert expected.keys() == found.keys()
    assert len(expected) > 10
    assert [] == [name for name, tensor in expected.items() if not torch.equal(tensor, found[name])]
