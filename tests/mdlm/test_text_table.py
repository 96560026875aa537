"""The script of the table of text: what a generator of other steps is trained with, and its rows."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dimo_core.evaluation.table import Row

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.chdir(tmp_path)
    return importlib.import_module("text_table")


def test_what_hangs_on_the_steps_is_trained_with_them(script: ModuleType) -> None:
    assert 4 == script.options("few-step", 4)["generator"]["steps"]
    four, two, one = (script.options("imdm", n)["objective"]["horizon"] for n in (4, 2, 1))
    assert 0.25 <= four < two < one == 1.0
    for n in (8, 4, 2):  # the last of three rounds ends at the student's step
        objective = script.options("sdtt", n)["objective"]
        assert n == objective["first_steps"] / 2**3


def test_a_row_tells_what_its_generator_was_trained_for_and_the_teacher_at_its_entropy(
    script: ModuleType,
) -> None:
    def row(name: str, kind: Any, steps: int, entropy: float, perplexity: float) -> Row:
        metrics = {"entropy": entropy, "perplexity": perplexity}
        return Row(name=name, kind=kind, series=name, steps=steps, passes=steps, samples=9, metrics=metrics)

    teacher = [row("mdlm", "teacher", 16, 3.6, 40.0), row("mdlm", "teacher", 16, 3.8, 90.0)]
    teacher += [row("halton", "teacher", 16, 3.6, 30.0), row("halton", "teacher", 16, 3.8, 30.0)]
    records = [
        script.Record.of(("text", method, 2, seed), row("x", "generator", 2, 3.7, 70.0 + seed), n)
        for method, n, seed in (("imdm", 2, 0), ("imdm", 4, 0), ("imdm", 4, 1), ("few-step", 4, 0))
    ]
    lines = [
        [cell.strip() for cell in line.split("|")[1:9]]
        for line in script.table(teacher, records).splitlines()[6:]
    ]
    assert ["Di[M]O", "4", "1", "2", "2", "60.0", "30.0", "70.0"] == lines[0]
    assert ["IMDM", "4", "2", "2", "2", "60.0", "30.0", "70.5 ±0.7"] == lines[1]
    assert ["IMDM", "2", "1", "2", "2", "60.0", "30.0", "70.0"] == lines[2]
