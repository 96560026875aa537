"""The plan of a text model by its sizes alone, and the table of the documentation."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FEW = {"vocab_size": 2000, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4, "rms_norm_eps": 1e-5}


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    """Scripts are no package: they find one another in their folder."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import llama
    import memory

    return llama, memory


def test_a_text_model_is_planned_by_its_configuration_alone(scripts: tuple[Any, Any]) -> None:
    llama, memory = scripts
    teacher = llama.Llama(sizes={**FEW, **HEADS}, length=32, again=True)
    wide, half = (
        memory.planned(teacher, "text", options) for options in ([memory.LORA], [memory.LORA, memory.HALF])
    )
    every, trained = wide.parameters["generator"]
    assert wide.parameters["teacher"] == (every - trained, 0)
    blocks = 2 * (4 * 64 * 64 + 3 * 64 * 192)
    head = 2000 * 64
    assert 2 * (blocks + head) == wide.rows["weights of the teacher"] - half.rows["weights of the teacher"]
    assert half.total < wide.total


@pytest.mark.slow
def test_eight_billion_parameters_are_planned_as_the_table_says(scripts: tuple[Any, Any]) -> None:
    llama, memory = scripts
    again, options = memory.COLUMNS["the same, base in bf16"]
    plan = memory.planned(llama.Llama(again=again), "text", options)
    assert (8_015_581_184, 0) == plan.parameters["teacher"]
    table = (ROOT / "docs" / "results" / "memory.md.inc").read_text()
    row = next(line for line in table.splitlines() if line.startswith("| the same, base in bf16"))
    assert row.endswith(f"| {plan.total / 2**30:.1f} |")
