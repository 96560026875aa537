"""``report.html`` of a run that goes on."""

from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from dimo_core.jobs import results
from dimo_core.jobs.distil import distill
from dimo_core.report.page import Report

QUICK = {"steps": 6, "batch_size": 8, "log_every": 2, "checkpoint_every": 6, "sample_every": 2}


def run(teacher: Any, out: Path) -> Any:
    return distill(teacher=teacher, out=str(out), divergence="jeffrey", train=QUICK, device="cpu")


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[Report]:
    found: list[Report] = []
    write = results.write_report

    def recorded(folder: Any, report: Report) -> str:
        found.append(report)
        return write(folder, report)

    monkeypatch.setattr(results, "write_report", recorded)
    return found


def test_it_is_written_after_sheets_with_the_newest_scalars(
    tiny_teacher: Any, tmp_path: Path, pages: list[Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "OLD", -1.0)
    run(tiny_teacher, tmp_path / "run")
    assert [True, True, True, False] == [page.running for page in pages]
    assert ["2 of 6 steps", "4 of 6 steps"] == [
        page.lead.split(": ")[1].split(" of 8")[0] for page in pages[:2]
    ]
    assert {"step 0", "step 2", "step 4"} == {*pages[1].pictures}
    assert "losses" in pages[0].plots
    assert 'http-equiv="refresh"' in pages[0].html()
    assert 'http-equiv="refresh"' not in (tmp_path / "run" / "report.html").read_text()


def test_a_young_one_is_left(tiny_teacher: Any, tmp_path: Path, pages: list[Report]) -> None:
    run(tiny_teacher, tmp_path / "run")
    assert [False] == [page.running for page in pages]


def test_one_that_cannot_be_drawn_stops_no_run(
    tiny_teacher: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("no ink")

    monkeypatch.setattr(results, "OLD", -1.0)
    monkeypatch.setattr(results, "sheets_over_time", broken)
    said: list[str] = []
    sink = logger.add(said.append, level="WARNING")
    try:
        with pytest.raises(ValueError, match="no ink"):  # that of the end, which is the result
            run(tiny_teacher, tmp_path / "run")
    finally:
        logger.remove(sink)
    assert 3 == sum("was not refreshed after step" in text and "no ink" in text for text in said)
    assert (tmp_path / "run" / "generator" / "generator.yaml").exists()
