"""Divergence, auxiliary and guidance are refused, and not named, where the objective does not use them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from dimo_core.cli import main
from dimo_core.config.distil import resolve_job
from dimo_core.objective import Ingredients, Objective, ObjectiveOptions


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--objective pairs --divergence rkl", ["--divergence: objective 'pairs' uses no divergence."]),
        ("--objective pairs --beta=0.1", ["--beta: objective 'pairs' uses no divergence."]),
        (
            "--objective pairs --guidance.scale 2 --auxiliary denoiser",
            [
                "--guidance.scale: objective 'pairs' uses no guidance.",
                "--auxiliary: objective 'pairs' uses no auxiliary.",
            ],
        ),
        ("--objective sdtt --divergence rkl --guidance.scale 2", []),
        ("--objective sdtt --auxiliary.soft 1", ["--auxiliary.soft: objective 'sdtt' uses no auxiliary."]),
        ("--objective di4c --generator mixture --guidance.scale 2", []),
        ("--preset di4c-d --divergence fkl", ["--divergence: objective 'di4c-d' uses no divergence."]),
        ("--objective idlm --divergence rkl --auxiliary.soft 1", []),
        ("--divergence rkl", []),
    ],
)
def test_plugins_that_an_objective_does_not_use_are_refused_on_the_command_line(
    words: str, told: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIMO_DIVERGENCE", "jeffrey")  # which may be meant for other commands
    code = main(["run", *words.split(), "--print_config"])
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert (2 if told else 0, len(told)) == (code, len(errors)), errors
    for line, text in zip(errors, told, strict=True):
        assert text in line
        assert "Leave it out, or choose another objective." in line


def test_files_may_mention_what_an_objective_does_not_use(tmp_path: Path) -> None:
    config = dict(resolve_job({"teacher": "maskgit", "objective": "pairs"}).config)
    assert {"divergence", "auxiliary", "guidance"} <= set(config)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert 0 == main(["run", "--config", str(tmp_path / "config.yaml"), "--print_config"])


def test_an_objective_that_does_not_say_what_it_uses_may_use_all() -> None:
    class Silent(ObjectiveOptions):
        def build(self, ingredients: Ingredients) -> Objective:
            raise NotImplementedError

    assert {"auxiliary", "divergence", "guidance"} == Silent.uses


@pytest.mark.parametrize(
    ("options", "method", "folder"),
    [
        ({}, ["dimo", "jeffrey"], "runs/maskgit-jeffrey-1"),
        ({"divergence": "rkl"}, ["dimo", "rkl"], "runs/maskgit-rkl-1"),
        ({"objective": "idlm", "divergence": "rkl"}, ["idlm", "rkl"], "runs/maskgit-idlm-rkl-1"),
        ({"objective": "pairs"}, ["pairs"], "runs/maskgit-pairs-1"),
        ({"preset": "di4c-d"}, ["di4c-d"], "runs/maskgit-di4c_d-1"),
    ],
)
def test_a_run_is_named_by_what_it_uses(
    options: dict[str, Any], method: list[str], folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = resolve_job({"teacher": "maskgit", **options})
    assert (method, folder) == (job.method, job.out)
