"""Plugins of others that fail cost their own column, row or curve, and nothing else."""

import json
from pathlib import Path
from typing import Any

import attrs
import pytest

from dimo_core.jobs.distil import distill
from dimo_core.metric import Metric, Samples
from dimo_core.registry import Registry
from dimo_core.sampler import Sampled, Sampler
from dimo_core.teacher import Teacher
from dimo_core.tracker import Tracker


@attrs.frozen(kw_only=True)
class BadTracker(Tracker):
    """Fails at the second number."""

    seen: list[int] = attrs.field(factory=list)

    def start(self, folder: str, config: Any) -> None:
        """Nothing."""

    def scalars(self, step: int, values: Any) -> None:
        """Fail once there was one."""
        self.seen.append(step)
        if len(self.seen) > 1:
            raise KeyError("no such project")

    def picture(self, step: int, name: str, path: str) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Never reached."""
        raise AssertionError("it failed before")


@attrs.frozen(kw_only=True)
class BadMetric(Metric):
    """Divides by zero."""

    def compute(self, samples: Samples, reference: Samples | None, teacher: Teacher) -> dict[str, float]:
        """Fail."""
        return {"ratio": len(samples) / 0}


@attrs.frozen(kw_only=True)
class BadSampler(Sampler):
    """Knows one step only."""

    def sample(self, teacher: Any, network: Any, c: Any, *, steps: int, draws: Any, **_: Any) -> Sampled:
        """Fail in more."""
        if steps > 1:
            raise IndexError("list index out of range")
        return Sampled(tokens=draws.integers("x", teacher.tokens.codes, teacher.tokens.length), passes=1)


def test_a_tracker_a_metric_and_a_sampler_that_fail_cost_neither_run_nor_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    registry, tracker = Registry.discover({}), BadTracker()
    load = Registry.load

    def loaded(self: Registry, kind: str, name: str) -> type:
        return BadMetric if (kind, name) == ("metric", "digits") else load(self, kind, name)

    monkeypatch.setattr(Registry, "load", loaded)
    result = distill(
        teacher="maskgit",
        tracker=tracker,
        sampler=BadSampler(),
        train={"steps": 4, "batch_size": 4, "log_every": 1, "sample_every": 0},
        eval={"samples": 64, "steps": [2, 1]},
        out=str(tmp_path / "run"),
        device="cpu",
        registry=registry,
    )
    assert [1, 2] == tracker.seen
    assert ["teacher, 1 step", "generator, 1 step", "real data"] == [row.name for row in result.table.rows]
    assert all("fid" in row.metrics and "readable" not in row.metrics for row in result.table.rows)
    notes = " ".join(json.loads((tmp_path / "run" / "evaluation.json").read_text())["notes"])
    assert (
        "the row 'teacher, 2 steps' is missing: IndexError: list index out of range (raised by sample"
        in notes
    )
    assert "metric 'digits' is missing: ZeroDivisionError: division by zero (raised by compute in" in notes
    assert (tmp_path / "run" / "report.html").exists()
    (line,) = (line for line in told if "the tracker" in line)
    assert "the tracker BadTracker failed and gets nothing more: KeyError: 'no such project'" in line
