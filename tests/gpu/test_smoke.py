"""What a machine with a CUDA device shows in a minute: commands run, and gradients are those of the CPU.

`pytest -m gpu -n 0`; without a device every test is skipped, and says why.
"""

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from dimo_core import conditions
from dimo_core.cli import main
from dimo_core.draws import Draws
from dimo_core.guidance import Constant
from dimo_core.method.denoiser import Denoiser
from dimo_core.method.dimo import Dimo
from dimo_core.method.one_step import OneStep
from dimo_core.objective import Batch, Ingredients
from dimo_divergences import Jeffrey

pytestmark = pytest.mark.gpu


@attrs.frozen(kw_only=True)
class HostDraws(Draws):
    """Draws made on the CPU and moved, so that both devices see the same numbers."""

    def uniform(self, stream: str, *shape: int) -> Tensor:
        return Draws.uniform(self.host(), stream, *shape).to(self.device)

    def normal(self, stream: str, *shape: int) -> Tensor:
        return Draws.normal(self.host(), stream, *shape).to(self.device)

    def integers(self, stream: str, high: int, *shape: int) -> Tensor:
        return Draws.integers(self.host(), stream, high, *shape).to(self.device)


def gradients(teacher: Any, device: str, dtype: torch.dtype, **options: Any) -> dict[str, Tensor]:
    """The gradients of one step on a device, on the CPU in float64."""
    objective = Dimo(**options).build(
        Ingredients(
            teacher=teacher,
            generator=OneStep(),
            auxiliary=Denoiser(label_smoothing=0.1),
            divergence=Jeffrey(beta=0.2),
            guidance=Constant(scale=2.0),
        )
    )
    modules = {**objective.frozen(), **{name: part.module for name, part in objective.parts().items()}}
    for module in modules.values():
        module.to(device, dtype)
    c = conditions.to(teacher.encode_conditions([0, 1, 1, 0]), device)
    for phase in objective.phases():
        phase.accumulate(Batch(conditions=c), HostDraws(seed=1, phase=phase.name, total=4, device=device))
    return {
        f"{name}.{key}": p.grad.cpu().double()
        for name, module in modules.items()
        for key, p in module.named_parameters()
        if p.grad is not None
    }


@pytest.mark.parametrize("rollout", ["shared", "fresh"])
def test_gradients_on_the_device_are_those_of_the_cpu(tiny_teacher: Any, rollout: str) -> None:
    expected = gradients(tiny_teacher, "cpu", torch.float64, rollout=rollout)
    actual = gradients(tiny_teacher, "cuda", torch.float32, rollout=rollout)
    assert expected.keys() == actual.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(
            actual[name], gradient, atol=1e-5, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_ends_with_a_report_and_its_generator_samples(tmp_path: Path, precision: str) -> None:
    run = ["run", "--teacher", "maskgit", "--divergence", "jeffrey", "--beta", "0.2", "--device", "cuda"]
    few = ["--steps", "3", "--eval.samples", "64", "--eval.steps", "[1]", "--train.precision", precision]
    assert 0 == main([*run, *few, "--out", str(tmp_path / "run")])
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert 3 == json.loads(lines[-1])["step"]
    sample = ["sample", str(tmp_path / "run" / "generator"), "--count", "4", "--device", "cuda"]
    assert 0 == main([*sample, "--out", str(tmp_path / "samples")])
    assert 4 == len((tmp_path / "samples" / "samples.jsonl").read_text().splitlines())


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    run = ["run", "--teacher", "maskgit", "--device", "cuda", "--eval.enabled", "false"]
    every = ["--train.checkpoint_every", "2"]
    assert 0 == main([*run, *every, "--steps", "4", "--out", str(tmp_path / "whole")])
    assert 0 == main([*run, *every, "--steps", "2", "--out", str(tmp_path / "parts")])
    assert 0 == main(["run", "--resume", str(tmp_path / "parts"), "--steps", "4"])
    whole, parts = (
        {
            path.name: path.read_bytes()
            for path in sorted((tmp_path / name / "generator").glob("*.safetensors"))
        }
        for name in ("whole", "parts")
    )
    assert whole
    assert whole == parts
