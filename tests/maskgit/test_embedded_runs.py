"""The main job as its users run it: in a process of its own, killed, interrupted, resumed, sampled."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dimo_core.cli import main
from dimo_core.engine.metrics_log import read_metrics
from dimo_core.files.folder import Folder

QUICK = ["--eval.enabled", "false", "--train.sample_every", "0", "--train.log_every", "1", "--device", "cpu"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "DIMO_LOG_LEVEL": "WARNING"}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dimo_core", *arguments]


def dimo(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command(*arguments), env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


def run_arguments(out: Path, steps: int) -> list[str]:
    job = ["run", "--teacher", "maskgit", "--divergence", "jeffrey", "--beta", "0.2", "--out", str(out)]
    return [*job, "--steps", str(steps), "--train.checkpoint_every", "4", "--batch-size", "32", *QUICK]


def wait_for_step(out: Path, step: int, process: "subprocess.Popen[Any]") -> None:
    while process.poll() is None:
        lines = read_metrics(Folder(str(out)))
        if lines and lines[-1]["step"] >= step:
            return
        time.sleep(0.01)


def final_tensors(out: Path, steps: int) -> dict[str, torch.Tensor]:
    files = sorted((out / "checkpoints" / f"step_{steps:06d}").glob("*.safetensors"))
    assert 5 == len(files)
    return {f"{f.name}/{name}": tensor for f in files for name, tensor in load_file(str(f)).items()}


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "steps"), [(1, 14), (6, 40)])
def test_a_run_killed_at_random_steps_ends_bitwise_like_an_uninterrupted_one(
    tmp_path: Path, kills: int, steps: int
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = dimo(*run_arguments(whole, steps))
    assert (0, "") == (done.returncode, done.stderr)
    process = subprocess.Popen(command(*run_arguments(killed, steps)), env=ENVIRONMENT)
    for target in sorted(random.sample(range(5, steps - 4), kills)):
        wait_for_step(killed, target, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert -signal.SIGKILL == process.returncode, "the run ended before it could be killed"
        process = subprocess.Popen(command("run", "--resume", str(killed)), env=ENVIRONMENT)
    assert 0 == process.wait(timeout=300)
    expected, actual = final_tensors(whole, steps), final_tensors(killed, steps)
    assert expected.keys() == actual.keys()
    assert [] == [name for name in expected if not torch.equal(expected[name], actual[name])]
    assert list(range(1, steps + 1)) == [line["step"] for line in read_metrics(Folder(str(killed)))]


def test_sigterm_saves_the_state_and_exits_with_130(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(*run_arguments(tmp_path / "run", 5000)), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    wait_for_step(tmp_path / "run", 3, process)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert 130 == process.returncode
    assert "state saved" in errors
    assert "Traceback" not in errors
    assert list((tmp_path / "run" / "checkpoints").glob("step_*/manifest.json"))


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (["--divergence", "fkl", "--beta", "0.2"], "beta"),
        (["--steps", "many"], "expected int"),
        (["--generator.r_init", "1.5"], "r_init"),
        (["--resume", "nowhere"], "nowhere"),
        (["--teacher.checkpoint", "nowhere"], "nowhere': there is no such file or folder"),
    ],
)
def test_wrong_input_is_answered_in_one_line(
    wrong: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", *wrong, *([] if "--resume" in wrong else ["--out", str(tmp_path / "run")])]
    assert main(arguments) in (1, 2)
    assert expected in (errors := capsys.readouterr().err)
    assert 1 == len(errors.strip().splitlines()), errors
    assert not (tmp_path / "run").exists()


def test_a_process_answers_wrong_input_in_one_line_too(tmp_path: Path) -> None:
    done = dimo("run", "--teacher", "maskgti", "--out", str(tmp_path / "run"))
    assert 2 == done.returncode
    assert "Did you mean 'maskgit'?" in done.stderr
    assert 1 == len(done.stderr.strip().splitlines()), done.stderr
    assert not (tmp_path / "run").exists()


def test_a_run_ends_with_table_pictures_and_a_generator_that_samples(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = dimo(
        "run", "--steps", "4", "--out", str(out), "--eval.samples", "100", "--eval.steps", "[2, 1]",
        "--eval.every", "2", "--eval.samples_on_the_way", "50", "--device", "cpu",
    )  # fmt: skip
    assert 0 == done.returncode, done.stderr
    assert "generator, 1 step" in done.stdout
    assert "readable" in (out / "evaluation.md").read_text()
    assert (out / "checkpoints/best/generator.yaml").exists()
    assert (out / "samples/teacher_beside_generator.png").exists()
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64") >= 5
    assert "http://" not in page.replace("http://www.w3.org", "")
    words = ["-n", "10", "--conditions", "odd", "--out", str(tmp_path / "s")]
    assert 0 == main(["sample", str(out / "generator"), *words])
    assert 10 == len([p for p in (tmp_path / "s").glob("0*.png")])


def test_a_dry_run_prints_options_and_memory_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == main(["run", "--dry-run", "--out", str(tmp_path / "run")])
    printed = capsys.readouterr().out
    for text in ("teacher_temperature", "485,380", "Adam's moments", "total"):
        assert text in printed
    assert not (tmp_path / "run").exists()
