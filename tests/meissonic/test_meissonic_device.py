"""Where the text tower computes: on the device of the command, unless its option says another."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dimo_core import device
from dimo_core.jobs.distil import distill
from dimo_core.jobs.sample import sample_folder, sample_teacher
from dimo_meissonic.teacher import Meissonic


@pytest.fixture
def auto(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options of a teacher on a machine that seems to have a GPU; computing there would fail here."""
    monkeypatch.setattr(device, "available_devices", lambda: ("cuda:0", "cpu"))
    return {**options, "text_device": "auto"}


def test_by_itself_it_takes_the_fastest_device(auto: dict[str, Any]) -> None:
    if torch.cuda.is_available():
        pytest.skip("it would work here")
    with pytest.raises((AssertionError, RuntimeError), match=r"CUDA|NVIDIA|cuda"):
        Meissonic(**auto).encode_conditions(["a"])


def test_on_a_device_the_tower_is_there_and_the_parts_are_shared(auto: dict[str, Any]) -> None:
    teacher = Meissonic(**auto)
    cpu, cuda = teacher.on(torch.device("cpu")), teacher.on(torch.device("cuda:0"))
    assert ("auto", "cpu", "cuda:0") == (teacher.text_device, cpu.text_device, cuda.text_device)
    assert cpu is teacher.on(torch.device("cpu")), "so that it is read once"
    assert teacher._parts is cpu._parts is cuda._parts
    assert torch.device("cpu") == cpu.prompts.device
    assert (1, 77, 24) == cpu.encode_conditions(["a"])["text"].shape
    assert cpu.encode_conditions(["a"])["text"].device == torch.device("cpu")


def test_an_option_overrules_the_device_of_the_run(options: dict[str, Any]) -> None:
    teacher = Meissonic(**options)
    assert teacher is teacher.on(torch.device("cuda:0"))


def test_commands_compute_all_of_it_on_their_device(
    auto: dict[str, Any], prompts: Any, tmp_path: Path
) -> None:
    """Also the negative prompt, pictures, evaluation and samples."""
    result = distill(
        teacher={"name": "meissonic", **auto, "grid": list(auto["grid"])},
        conditions=prompts,
        train={"steps": 1, "batch_size": 2, "accumulate": 1, "sample_every": 1, "log_every": 1},
        out=str(tmp_path / "run"),
        device="cpu",
    )
    assert "text_device: auto" in (tmp_path / "run" / "config.yaml").read_text()
    assert result.folder.exists("generator", "generator.yaml")
    sample_folder(str(tmp_path / "run"), count=2, conditions=["a red cat"], device="cpu")
    teacher = Meissonic(**auto)
    drawn = sample_teacher(teacher, "paper-2", count=2, conditions=["a red cat"], device="cpu")
    assert (2, 64) == drawn.tokens.shape
    assert torch.device("cpu") == teacher.on(torch.device("cpu")).prompts.device
