"""Before the first step: teachers that would train silently wrong are found, and nothing is written."""

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import nn

from dimo_core.errors import PluginError, UsageError
from dimo_core.jobs import distil
from dimo_core.jobs.first_look import look
from dimo_core.method.one_step import OneStep

CPU = torch.device("cpu")


def looked(teacher: Any, network: Any = None, **trained: nn.Module) -> None:
    look(teacher, network or teacher.network(), trained, [0, 1], CPU)


def test_a_teacher_and_its_generator_pass(tiny_teacher: Any) -> None:
    looked(tiny_teacher, generator=OneStep().build(tiny_teacher), auxiliary=tiny_teacher.network())


def test_logits_of_one_column_more_are_found(tiny_teacher: Any) -> None:
    network = attrs.evolve(tiny_teacher, keep=True).network()
    with pytest.raises(PluginError, match=r"TinyTeacher: its network gave logits \[2, 4, 6\]; .*\[2, 4, 5\]"):
        looked(tiny_teacher, network)


def test_logits_that_are_not_finite_are_found(tiny_teacher: Any) -> None:
    network = tiny_teacher.network()
    network.out.weight.data[0, 0] = torch.nan
    with pytest.raises(PluginError, match="TinyTeacher: its logits of all masks are not finite"):
        looked(tiny_teacher, network)


def test_weights_that_are_shared_and_trained_are_found(tiny_teacher: Any) -> None:
    network = tiny_teacher.network().requires_grad_(False)
    copy = tiny_teacher.network()
    copy.out.weight = nn.Parameter(network.out.weight.data)
    with pytest.raises(
        PluginError, match=r"'out.weight' of auxiliary is that of teacher TinyTeacher: .*must give copies"
    ):
        look(tiny_teacher, network, {"auxiliary": copy}, [0, 1], CPU)
    copy.requires_grad_(False)
    look(tiny_teacher, network, {"auxiliary": copy}, [0, 1], CPU)


def test_too_few_rows_of_conditions_are_found(tiny_teacher: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(tiny_teacher), "encode_conditions", lambda _, raw: torch.zeros(1).long())
    with pytest.raises(PluginError, match="encode_conditions gave 1 rows for 2 conditions"):
        looked(tiny_teacher)


def test_tokens_that_are_no_codes_are_found(tiny_teacher: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = OneStep().build(tiny_teacher)
    monkeypatch.setattr(type(generator), "sample", lambda *_: torch.full((2, 4), 5))
    with pytest.raises(
        PluginError, match=r"sample gave \[2, 4\] tokens from 5 to 5; expected \[2, 4\] of 0 .. 4"
    ):
        looked(tiny_teacher, generator=generator)


def test_a_run_looks_before_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PluginError("not as promised")

    monkeypatch.setattr(distil, "look", refuse)
    with pytest.raises(PluginError, match="not as promised"):
        distil.distill(teacher="maskgit", train={"steps": 1}, out=str(tmp_path / "run"), device="cpu")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_conditions_are_looked_at_before_anything_is_written(tmp_path: Path) -> None:
    wrong = {"name": "labels", "classes": ["prime"]}
    with pytest.raises(UsageError, match="unknown class 'prime'"):
        distil.distill(teacher="maskgit", conditions=wrong, out=str(tmp_path / "run"), device="cpu")
    assert not (tmp_path / "run").exists()
