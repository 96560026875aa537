"""The table of failed runs says what their logs say."""

import json
from pathlib import Path
from types import ModuleType

import pytest
from loguru import logger

from dimo_core.engine.alarms import alarm

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import failures

    monkeypatch.setattr(failures, "RUNS", tmp_path)
    return failures


def test_the_table_has_the_last_numbers_and_the_alarms_of_a_run(failures: ModuleType) -> None:
    out = failures.home("dead auxiliary")
    out.mkdir()
    lines = [{"step": step, "divergence": float(step)} for step in range(1, 21)]
    lines[-1]["eval/fid"] = 7.5
    (out / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    sink = logger.add(out / "run.log", format="{message}")
    alarm(130, {"entropy_theta": 0.0164}, codes=64, raised=set())
    logger.remove(sink)
    rows = [line.split(" | ") for line in failures.table().splitlines()]
    (row,) = [row for row in rows if row[0] == "| dead auxiliary"]
    assert row[1] == "19.5"  # the mean of the last tenth
    assert row[1 + [*failures.CURVES].index("eval/fid")] == "7.5"
    assert row[-1] == "step 130: the entropy of p_theta has collapsed to 0.016 nats |"
    (untrained,) = [row for row in rows if row[0] == "| healthy"]
    assert untrained[1:] == ["-"] * len(failures.CURVES) + ["none |"]
