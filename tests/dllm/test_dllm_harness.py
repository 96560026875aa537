"""`dimo harness`: tasks of lm-eval on local data, and what goes wrong with it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dimo_core.cli import main as dimo
from dimo_core.errors import DimoError
from dimo_dllm.teacher import DllmTeacher
from dimo_text.harness import Harness
from dimo_text.harness_model import cut, library

from .test_dllm_runs import options

Teachers = Callable[..., DllmTeacher]
QUESTIONS = ({"question": "what is one?", "answer": "1"}, {"question": "the dog", "answer": "is kind"})
TASK = """
task: own
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: KIND
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["."], max_gen_toks: 8}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
RANKED = """
task: ranked
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: 0
doc_to_choice: ["1", "2"]
metric_list: [{metric: acc}]
"""


@pytest.fixture
def how(tmp_path: Path, teacher: Teachers) -> Path:
    """A file that says how the tiny teacher is sampled."""
    given = options(teacher("llada", prompt=8))
    path = tmp_path / "how.yaml"
    sampler = {"name": "threshold", "block": 4, "threshold": 0.0}
    path.write_text(yaml.safe_dump({"teacher": given, "sampler": sampler, "steps": 8}))
    return path


def test_a_text_is_cut_at_the_first_stop() -> None:
    assert "a b" == cut("a b. c? d", ["?", ".", ""])
    assert "a" == cut("a b", " ")
    assert "a b" == cut("a b", None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "give either --path, a generator, or --how"),
        ({"path": "a", "how": "b"}, "give either --path, a generator, or --how"),
    ],
)
def test_one_model_is_given(given: dict[str, Any], said: str) -> None:
    with pytest.raises(DimoError, match=said):
        Harness(tasks=("gsm8k",), **given).run()


def test_without_the_library_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.evaluator", None)
    assert 1 == dimo(["harness", "--path", "nowhere", "--tasks", "gsm8k"])
    assert "pip install 'dimo[harness]'" in capsys.readouterr().err


@pytest.mark.slow
class TestWithTheLibrary:
    """What needs lm-eval."""

    @pytest.fixture(autouse=True)
    def tasks(self, tmp_path: Path) -> Path:
        """A folder with two tasks."""
        pytest.importorskip("lm_eval")
        data, folder = tmp_path / "questions.jsonl", tmp_path / "tasks"
        data.write_text("\n".join(map(json.dumps, QUESTIONS)))
        folder.mkdir()
        (folder / "own.yaml").write_text(TASK.replace("FILE", str(data)).replace("KIND", "generate_until"))
        (folder / "ranked.yaml").write_text(RANKED.replace("FILE", str(data)))
        return folder

    def test_a_teacher_answers_a_task(
        self, how: Path, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], teacher: Teachers
    ) -> None:
        words = ["harness", "--how", str(how), "--tasks", "own", "--include", str(tasks), "--device", "cpu"]
        assert 0 == dimo([*words, "--out", str(tmp_path / "out")])
        table = capsys.readouterr().out
        assert "|own" in table
        found = json.loads((tmp_path / "out" / "results.json").read_text())
        assert 0.0 == found["results"]["own"]["exact_match,none"]
        assert {"original": 2, "effective": 2} == found["n-samples"]["own"]
        assert f"tokens by forward pass: {found['tokens_per_pass']:.2f} (" in table
        assert "/ 4 passes)" in table  # two questions, two blocks each
        assert 2 == dimo([*words, "--out", str(tmp_path / "out")])
        assert "is not empty. Choose another --out" in capsys.readouterr().err

    def test_right_answers_are_right(
        self, how: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        right = {one["question"]: f"{one['answer']}. and more" for one in QUESTIONS}

        def texts(_: Any, x: torch.Tensor, c: Any) -> tuple[str, ...]:
            return tuple(right.values())[: len(x)]

        monkeypatch.setattr(DllmTeacher, "texts", texts)
        words = ["--how", str(how), "--tasks", "own", "--include", str(tasks), "--device", "cpu"]
        assert 0 == dimo(["harness", *words])
        row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("|own"))
        assert "|    1|" in row

    @pytest.mark.parametrize(
        ("task", "said"),
        [
            ("ranked", "the task 'ranked' asks for likelihoods"),
            ("unheard", "lm-eval has no task 'unheard'"),
        ],
    )
    def test_what_cannot_be_answered_is_said(
        self, task: str, said: str, how: Path, tasks: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["--how", str(how), "--tasks", task, "--include", str(tasks), "--device", "cpu"]
        assert 2 == dimo(["harness", *words])
        assert said in capsys.readouterr().err

    def test_data_that_cannot_be_had_are_named_with_their_task(
        self, how: Path, tasks: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        text = (tasks / "own.yaml").read_text().replace("questions.jsonl", "gone.jsonl")
        (tasks / "own.yaml").write_text(text)
        words = ["--how", str(how), "--tasks", "own", "--include", str(tasks), "--device", "cpu"]
        assert 2 == dimo(["harness", *words])
        assert "lm-eval cannot evaluate own: " in capsys.readouterr().err


def test_the_library_is_asked_for_by_its_module() -> None:
    with pytest.raises(DimoError, match=r"needs the library 'lm-eval'"):
        library("no_such_module")
