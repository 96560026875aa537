"""``--precision`` of every command that computes with networks."""

import json
from pathlib import Path

import pytest
import yaml
from loguru import logger

from dimo_core.cli import main

FEW = ["--samples", "8", "--metrics", "digits", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    logger.remove()


def lines(folder):
    return [json.loads(line) for line in Path(folder, "samples.jsonl").read_text().splitlines()]


def sample(out, *more):
    what = ["--teacher", "maskgit", "--steps", "2", "-n", "6", "--device", "cpu"]
    return main(["sample", *what, "--out", out, *more])


def test_samples_are_drawn_in_it_and_say_so():
    assert [0, 0, 0] == [sample("a"), sample("b", "--precision", "fp32"), sample("c", "--precision", "bf16")]
    whole, again, half = map(lines, "abc")
    assert whole == again
    assert "precision" not in whole[0]
    assert {"bf16"} == {line["precision"] for line in half}
    assert whole != [{k: v for k, v in line.items() if k != "precision"} for line in half]


def test_rows_are_drawn_in_it_and_those_of_another_are_not_used_for_it():
    evaluate = ["evaluate", "t", *FEW, "--sampling-steps", "1", "--out", "o"]
    assert 0 == main(["convert", "--teacher.class_names", "null", "--out", "t"])
    assert 0 == main([*evaluate, "--precision", "bf16"])
    (bf16,) = [cell for cell in json.loads(Path("o/results.json").read_text())["cells"] if "machines" in cell]
    assert "bf16" == bf16["machines"][0]["precision"]
    assert 0 == main(evaluate)
    (fp32,) = [cell for cell in json.loads(Path("o/results.json").read_text())["cells"] if "machines" in cell]
    assert "precision" not in fp32["machines"][0]


def test_a_run_trains_in_it_and_its_table_has_its_own(capsys):
    assert 0 == main(["run", "--precision", "tf32", "--eval.precision", "bf16", "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert ("tf32", "bf16") == (printed["train"]["precision"], printed["eval"]["precision"])


@pytest.mark.parametrize(
    "command", [["sample", "x"], ["sample", "--teacher", "maskgit"], ["compare"], ["evaluate", "x"], ["run"]]
)
def test_another_is_refused_and_all_are_named(command, capsys):
    assert 2 == main([*command, "--precision", "fp8"])
    told = capsys.readouterr().err
    assert all(name in told for name in ("fp8", "fp32", "tf32", "bf16"))
