"""Runs from prompt to answer: adapters on one base, samples, their use as data, memory."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dimo_core.cli import main as dimo
from dimo_core.config.distil import resolve_job
from dimo_core.files.generator_folder import load_generator
from dimo_core.jobs.distil import distill
from dimo_core.jobs.dry_run import plan_memory
from dimo_dllm.architecture import Family
from dimo_dllm.teacher import DllmTeacher

from .conftest import FAMILIES, table, write_tokenizer
from .test_dllm_files import SIZES

Teachers = Callable[..., DllmTeacher]
each = pytest.mark.parametrize("family", FAMILIES)
PROMPTS = ("the cat", "a dog is", "what is one?", "no")
FP32 = {"precision": "fp32", "frozen_dtype": "fp32"}


@pytest.fixture
def prompts(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    return {"name": "prompts", "url": str(tmp_path / "prompts.txt")}


def options(made: DllmTeacher) -> dict[str, Any]:
    names = ("path", "prompt", "answer", "chat", "dtype")
    return {"name": made.family, **{name: getattr(made, name) for name in names}}


@each
def test_two_steps_train_adapters_on_one_base(
    family: Family, tmp_path: Path, teacher: Teachers, prompts: Any
) -> None:
    made, small = teacher(family, prompt=8), {"rank": 2, "alpha": 2.0}
    result = distill(
        teacher=options(made),
        conditions=prompts,
        generator={"name": "lora", **small},
        auxiliary={"name": "lora", **small},
        train={**FP32, "steps": 2, "batch_size": 4, "accumulate": 2, "sample_every": 1, "log_every": 1},
        eval={"precision": "fp32"},
        out=str(tmp_path / "run"),
        device="cpu",
    )
    state = result.generator.backbone.state_dict()
    assert all("lora_" in name for name in state)
    assert len(state) == 2 * 7 * made.architecture.layers
    learnt = [tensor for name, tensor in state.items() if "lora_B" in name]
    assert all(bool(tensor.any()) for tensor in learnt)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    again, generator = load_generator(str(tmp_path / "run" / "generator"))
    assert isinstance(again, type(made))
    for name, tensor in generator.backbone.state_dict().items():
        assert torch.equal(tensor, state[name])
    assert dimo(["sample", str(tmp_path / "run"), "--count", "3", "--out", str(tmp_path / "samples")]) == 0
    records = [json.loads(line) for line in (tmp_path / "samples" / "samples.jsonl").read_text().splitlines()]
    assert len(records) == 3


@each
@pytest.mark.parametrize("preset", ["idlm", "certainty"])
def test_a_teachers_answers_are_data(
    family: Family, preset: str, tmp_path: Path, teacher: Teachers, prompts: Any
) -> None:
    made, fast = teacher(family, prompt=8), {"lr": 1e-2, "warmup": 0}
    given = [word for name, value in options(made).items() for word in _option(name, value)]
    out = str(tmp_path / "answers")
    assert dimo(["sample", *given, "--prompts-from", prompts["url"], "--out", out]) == 0
    parts = ("generator", "auxiliary") if preset == "idlm" else ("generator",)
    result = distill(
        preset=preset,
        teacher=options(made),
        conditions=prompts,
        data={"name": "samples", "path": out},
        objective={name: fast for name in parts},
        train={**FP32, "steps": 4, "batch_size": 4, "accumulate": 2},
        eval={"precision": "fp32"},
        out=str(tmp_path / "run"),
        device="cpu",
        **{name: {"name": "lora", "rank": 2} for name in parts},
    )
    learnt = [t for name, t in result.generator.backbone.state_dict().items() if "lora_B" in name]
    assert all(bool(t.any()) for t in learnt)


def _option(name: str, value: Any) -> tuple[str, str]:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return ("--teacher", text) if name == "name" else (f"--teacher.{name}", text)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llada", "dream"])
def test_memory_at_full_size_is_planned_without_weights(family: Family, tmp_path: Path, prompts: Any) -> None:
    (tmp_path / "full").mkdir()
    config = {**table(family, "config"), **SIZES[family][0]}
    (tmp_path / "full" / "config.json").write_text(json.dumps(config))
    write_tokenizer(tmp_path / "full", family)
    job = resolve_job(
        {
            "teacher": {"name": family, "path": str(tmp_path / "full")},
            "conditions": prompts,
            "generator": {"name": "lora", "rank": 128},
            "auxiliary": {"name": "lora", "rank": 128},
            "train": {"batch_size": 1, "accumulate": 1},
        }
    )
    plan = plan_memory(job)
    _, _, numbers, size = SIZES[family]
    adapters = {"llada": 335_544_320, "dream": 322_961_408}[family]
    assert plan.parameters["teacher"] == (numbers, 0)
    assert plan.parameters["generator"] == (numbers + adapters, adapters)
    assert plan.rows["weights of the teacher"] == size
    assert plan.rows["weights of the generator"] == 4 * adapters
    assert plan.rows["Adam's moments"] == 2 * 2 * 4 * adapters
    assert 25 < plan.total / 2**30 < 32
    own = {"name": "lora", "rank": 128}
    given = {"teacher": job.config["teacher"], "conditions": prompts, "generator": own}
    plan = plan_memory(resolve_job({**given, "data": {"name": "samples", "path": "any"}}, preset="certainty"))
    assert {"generator"} == plan.parameters.keys()
    assert plan.rows["weights that adapters share"] == size  # though no objective asks for a teacher's logits


def test_thresholds_are_compared_by_tokens_a_pass_and_accuracy(
    tmp_path: Path, teacher: Teachers, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = tmp_path / "qa.jsonl"
    asked.write_text("\n".join(json.dumps({"prompt": text, "answer": "7"}) for text in PROMPTS))
    metrics = [{"name": "answers", "path": str(asked), "kind": "text"}, "tokens-per-pass"]
    protocol = tmp_path / "protocol.yaml"
    source = {"name": "prompts", "url": str(asked)}
    protocol.write_text(
        yaml.safe_dump({"samples": 8, "metrics": metrics, "conditions": source, "best": "-accuracy"})
    )
    given = [
        word for name, value in options(teacher("llada", prompt=8)).items() for word in _option(name, value)
    ]
    bold, careful = (f"{{name: threshold, block: 4, threshold: {t}}}" for t in ("0.0", "1.0"))
    rows = ["--samplers", bold, careful, "--sampling-steps", "8"]
    out = tmp_path / "table"
    assert (
        dimo(["compare", *given, *rows, "--protocol", str(protocol), "--out", str(out), "--device", "cpu"])
        == 0
    )
    first, second = json.loads((out / "results.json").read_text())["rows"]
    assert (2, 8) == (first["passes"], second["passes"])
    assert first["metrics"]["tokens_per_pass"] == first["metrics"]["length"] / 2
    assert second["metrics"]["tokens_per_pass"] == second["metrics"]["length"] / 8
    assert 0 == first["metrics"]["accuracy"]
