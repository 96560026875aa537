"""Training on the device against the CPU in float64; the host waits for no step that is not logged."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.gpu

LORA = {"generator": "lora", "auxiliary": "lora"}
each_teacher = pytest.mark.parametrize("teacher", ["maskgit", "meissonic"])
each_preset = pytest.mark.parametrize("preset", ["paper", "fast"])
each_kind = pytest.mark.parametrize("parts", [{}, LORA], ids=["full", "lora"])

BOUNDS = {"fp32": 1e-3, "bf16": 0.15}
"""How far gradients of three steps may be from those in float64, as a share of their length. On a CPU
`benchmarks/bf16_heads.py` found 4e-6 and up to 6 % for those of one step; a device sums in another order."""


@each_kind
@each_preset
@each_teacher
def test_three_steps_are_those_of_the_cpu_in_float64(
    teacher: str,
    preset: str,
    parts: dict[str, str],
    device: torch.device,
    engines: Any,
    tokens: Any,
    draws_of_the_host: None,
) -> None:
    drawn = tokens(None)
    exact = engines.make(teacher, preset, torch.device("cpu"), double=True, **parts)
    for _ in range(3):
        exact.take_step()
    expected = engines.moments(exact)
    for precision, bound in BOUNDS.items():
        own = tokens(drawn)
        made = engines.make(teacher, preset, device, train={"precision": precision}, **parts)
        for _ in range(3):
            made.take_step()
        found = engines.apart(engines.moments(made), expected)
        assert found.keys() == {"generator", "auxiliary"}
        assert max(found.values()) < bound, (precision, found)
        assert 0 == made.skipped
        same = [(a.cpu() == b).double() for a, b in zip(own, drawn, strict=True)]
        assert float(torch.cat(same).mean()) > (0.999 if precision == "fp32" else 0.9), precision


@each_kind
@each_preset
@each_teacher
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_host_waits_for_no_step_that_is_not_logged(
    teacher: str, preset: str, parts: dict[str, str], precision: str, device: torch.device, engines: Any
) -> None:
    made = engines.make(teacher, preset, device, train={"precision": precision}, **parts)
    for _ in range(2):  # libraries are loaded, and the text tower looks at itself
        made.take_step()
    with engines.no_waiting(device):
        for _ in range(3):
            made.take_step()
    assert 5 == made.step
    assert all(bool(value.isfinite()) for value in made.take_step(watch=True).values())


def test_a_wait_is_found(device: torch.device, engines: Any) -> None:
    """Or else the test before this one would show nothing."""
    if device.type != "cuda":
        pytest.skip("a rehearsal: torch tells of waits for CUDA devices only")
    with pytest.raises(RuntimeError, match="synchroniz"), engines.no_waiting(device):
        torch.ones(2, device=device).sum().item()


@each_teacher
def test_compiled_steps_are_the_eager_ones(teacher: str, device: torch.device) -> None:
    """In a process of its own: under pytest wrappers check shapes, and Dynamo does not look through them."""
    script = Path(__file__).with_name("compiled.py")
    run = subprocess.run(
        [sys.executable, str(script), teacher, str(device)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert 0 == run.returncode, run.stderr[-4000:]
    found = json.loads(run.stdout.splitlines()[-1])
    assert max(found["apart"].values()) < 1e-3, found
    assert found["compiled"] > 0
