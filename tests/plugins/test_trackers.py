"""Trackers: what they are told arrives, and a resumed run goes on where it was."""

import csv
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from dimo_core.cli import main as dimo
from dimo_core.config.distil import resolve_job
from dimo_core.errors import DimoError, UsageError
from dimo_core.registry import Registry
from dimo_core.testing import check_options
from dimo_core.tracker import Tracker
from dimo_trackers.csv_file import Csv
from dimo_trackers.services import Trackio, Wandb
from dimo_trackers.several import Several

NAMES = ("csv", "several", "tensorboard", "trackio", "wandb")


def told(tracker: Tracker, folder: Path, steps: range, *, end: bool = True) -> None:
    """A run from one step to another."""
    tracker.start(str(folder), {"seed": 3})
    for step in steps:
        tracker.scalars(step, {"loss": step / 2, **({"fid": 7.0} if step == 2 else {})})
    if end:
        tracker.finish()


def rows(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text().splitlines()))


def test_they_are_registered() -> None:
    assert set(NAMES) <= set(Registry.discover().names("tracker"))
    for tracker in (Csv(), Wandb(), Trackio(), Several(trackers=("csv",))):
        check_options(tracker)


def test_numbers_are_rows_of_a_file(tmp_path: Path) -> None:
    told(Csv(), tmp_path, range(1, 4))
    numbers = [["1", "loss", "0.5"], ["2", "loss", "1.0"], ["2", "fid", "7.0"], ["3", "loss", "1.5"]]
    assert [["step", "name", "value"], *numbers] == rows(tmp_path / "scalars.csv")


def test_rows_of_steps_that_are_done_again_go(tmp_path: Path) -> None:
    told(Csv(), tmp_path, range(1, 4), end=False)
    with (tmp_path / "scalars.csv").open("a") as file:
        file.write("4,lo")  # a machine that went down
    told(Csv(), tmp_path, range(2, 4))
    assert ["1", "2", "2", "3"] == [row[0] for row in rows(tmp_path / "scalars.csv")[1:]]
    told(Csv(file="other.csv"), tmp_path, range(1, 2))
    assert 2 == len(rows(tmp_path / "other.csv"))


class Library(ModuleType):
    """A stand-in for wandb and trackio: it notes the calls."""

    def __init__(self, known: str = "abc") -> None:
        super().__init__("stand_in")
        self.calls, self.known = list[Any](), known
        self.Image = lambda path: ("picture", Path(path).name)

    def init(self, **given: Any) -> Any:
        self.calls.append(("init", given))
        return SimpleNamespace(id=given.get("id") or self.known)

    def log(self, values: dict[str, Any], step: int) -> None:
        self.calls.append(("log", values, step))

    def finish(self) -> None:
        self.calls.append(("finish",))


@pytest.mark.parametrize(("cls", "name"), [(Wandb, "wandb"), (Trackio, "trackio")])
def test_a_service_is_told_and_a_resumed_run_goes_on_in_its_own(
    cls: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Library()
    monkeypatch.setitem(sys.modules, name, first)
    folder = tmp_path / "my-run"
    tracker = cls(project="papers")
    told(tracker, folder, range(1, 3), end=False)
    tracker.picture(2, "samples", str(folder / "sheet.png"))
    tracker.picture(2, "samples", str(folder / "lines.txt"))
    tracker.finish()
    begun = first.calls[0][1]
    assert ("papers", {"seed": 3}, "allow") == (begun["project"], begun["config"], begun["resume"])
    assert "my-run" == begun["name"]
    logged = [("log", {"loss": 0.5}, 1), ("log", {"loss": 1.0, "fid": 7.0}, 2)]
    picture = ("log", {"samples": ("picture", "sheet.png")}, 2)
    assert [*logged, picture, ("finish",)] == first.calls[1:]
    second = Library(known="another")
    monkeypatch.setitem(sys.modules, name, second)
    moved = tmp_path / "moved"
    folder.rename(moved)
    told(cls(project="papers"), moved, range(3, 4))
    again = second.calls[0][1]
    assert (again["id"] == "abc") if name == "wandb" else (again["name"] == "my-run")


def test_a_missing_library_is_named_and_costs_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(DimoError, match=r"pip install 'dimo\[wandb\]'"):
        told(Wandb(), tmp_path, range(1, 2))
    both = Several(trackers=("wandb", {"name": "csv", "file": "n.csv"}))
    told(both, tmp_path, range(1, 3))
    assert 4 == len(rows(tmp_path / "n.csv"))


def test_several_are_checked_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(DimoError, match="csw"):
        Several(trackers=("csw",))
    with pytest.raises(DimoError, match="path: Csv has no such option"):
        Several(trackers=({"name": "csv", "path": "x"},))
    options = {
        "teacher": "maskgit",
        "out": str(tmp_path),
        "tracker": {"name": "several", "trackers": ["csw"]},
    }
    with pytest.raises(DimoError, match="csw"):
        resolve_job(options)


def test_a_run_tells_its_tracker(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["--tracker", "several", "--tracker.trackers", "[csv, {name: csv, file: two.csv}]"]
    train = [
        "--train.steps",
        "2",
        "--train.batch_size",
        "2",
        "--train.log_every",
        "1",
        "--eval.enabled",
        "false",
    ]
    assert 0 == dimo(["run", "--out", str(out), "--device", "cpu", *words, *train])
    assert rows(out / "scalars.csv") == rows(out / "two.csv")
    assert {"1", "2"} == {row[0] for row in rows(out / "scalars.csv")[1:]}


@pytest.mark.slow
class TestTensorBoard:
    """What needs its library."""

    @pytest.fixture(autouse=True)
    def _library(self) -> None:
        pytest.importorskip("tensorboard")

    def test_scalars_pictures_and_resumption(self, tmp_path: Path) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        from dimo_trackers.tensorboard import TensorBoard

        tracker = TensorBoard()
        check_options(tracker)
        told(tracker, tmp_path, range(1, 5), end=False)
        Image.new("RGB", (8, 6), "red").save(tmp_path / "sheet.png")
        (tmp_path / "lines.txt").write_text("a line\nanother")
        tracker.picture(4, "samples", str(tmp_path / "sheet.png"))
        tracker.picture(4, "lines", str(tmp_path / "lines.txt"))
        tracker.finish()
        told(TensorBoard(), tmp_path, range(3, 6))
        found = EventAccumulator(str(tmp_path / "tensorboard"))
        found.Reload()
        assert [1, 2, 3, 4, 5] == [event.step for event in found.Scalars("loss")]
        tags = found.Tags()
        assert ["samples"] == tags["images"]
        assert {"config/text_summary", "lines/text_summary"} <= set(tags["tensors"])

    def test_a_remote_run_needs_a_path(self) -> None:
        from dimo_trackers.tensorboard import TensorBoard

        with pytest.raises(UsageError, match=r"set --tracker\.path"):
            TensorBoard().start("memory://run", {})
