"""``dimo watch``: a run folder in the terminal, and the report of a run that goes on."""

import io
import json
import re
import time
from pathlib import Path
from typing import Any

import attrs
import pytest
from PIL import Image
from rich.console import Console

from dimo_core.cli import main
from dimo_core.evaluation.table import Table
from dimo_core.files import owner
from dimo_core.files.folder import OWNER, Folder
from dimo_core.files.images import png
from dimo_core.files.owner import Owner
from dimo_core.jobs.watch import State, watch
from dimo_core.report.terminal import curve, picture


def run_folder(
    path: Path, *, steps: int = 40, enabled: bool = False, lines: int = 3, **changes: Any
) -> Folder:
    """A run whose owner is this process, but for ``changes``."""
    folder = Folder(str(path))
    owner = attrs.asdict(attrs.evolve(Owner.here(()), **changes))
    folder.write(f"a{OWNER}", json.dumps(owner).encode())
    folder.write_yaml("config.yaml", {"train": {"steps": steps}, "eval": {"enabled": enabled}})
    logged = [
        {"step": 10 * i, "loss": 4.0 / i, "eval/fid": 9.0 - i * i / 2, "seconds": 5.0 * i}
        for i in range(1, lines + 1)
    ]
    folder.write("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in logged).encode())
    return folder


def text_of(state: State, **how: Any) -> str:
    console = Console(file=io.StringIO(), width=100, height=40, **how)
    console.print(state.shown(console))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_it_says_how_far_a_run_is_and_shows_its_newest_numbers(tmp_path):
    text = text_of(State.read(run_folder(tmp_path / "run")))
    assert "step 30 of 40, about 0:05 left" in " ".join(text.split())
    fid, loss = (next(line for line in text.splitlines() if name in line) for name in ("eval/fid", "loss"))
    assert ["eval/fid", "█▅▁", "4.5", "4.5", "8.5"] == fid.split()
    assert ["loss", "█▃▁", "1.333", "1.333", "4"] == loss.split()
    assert text.index("eval/fid") < text.index("loss")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"born": "1"}, "; stopped: process 7 on .*, since .* has ended without a word. `dimo run --resume"),
        (
            {"host": "far", "machine": ""},
            r"0:05 left; nothing was logged for \d+:\d\d, and whether process 7",
        ),
    ],
)
def test_a_run_whose_process_is_gone_is_told(changes, told, tmp_path, monkeypatch):
    monkeypatch.setattr(owner, "_born", lambda pid: "2")
    state = State.read(run_folder(tmp_path / "my run", **{"pid": 7, **changes}))
    assert re.search(told, " ".join(text_of(state).split()))
    assert bool(state.stopped) == ("stopped" in told)


def test_a_run_that_nobody_writes_to_has_stopped(tmp_path, monkeypatch):
    folder = run_folder(tmp_path / "my run")
    folder.remove(f"a{OWNER}")
    monkeypatch.setattr(Console, "is_terminal", True)
    monkeypatch.setattr(time, "sleep", pytest.fail)
    watch(folder)
    text = " ".join(text_of(State.read(folder)).split())
    assert f"; stopped: nobody writes to it. `dimo run --resume '{folder.url}'`" in text
    assert "left" not in text


def test_a_run_has_ended_when_its_table_is_there(tmp_path):
    through = run_folder(tmp_path / "judged", enabled=True, lines=4)
    assert not State.read(through).ended
    through.write_json("evaluation.json", Table(rows=()).to_dict())
    assert State.read(through).ended
    assert State.read(run_folder(tmp_path / "plain", lines=4)).ended
    assert not State.read(run_folder(tmp_path / "short", lines=3)).ended


@pytest.mark.parametrize(
    ("suffix", "expected"), [(".png", "38;2;255;0;0;48;2;0;0;255m▀"), (".txt", "two\\x1b")]
)
def test_the_newest_samples_are_shown_as_the_terminal_can(tmp_path, suffix, expected):
    folder, image = run_folder(tmp_path / "run"), Image.new("RGB", (2, 2), (255, 0, 0))
    image.paste((0, 0, 255), (0, 1, 2, 2))
    for step, data in ((10, b"old"), (20, png(image) if suffix == ".png" else b"two\x1b[31m")):
        folder.write(f"samples/step_{step:06d}{suffix}", data)
    state = State.read(folder)
    shown = text_of(state, force_terminal=True, color_system="truecolor", legacy_windows=False)
    assert expected in shown
    assert "step_000020" in shown
    assert "step_000010" not in shown
    assert ("▀" in text_of(state)) is False


def test_a_picture_keeps_its_shape_and_fits():
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=200)
    for size, columns, lines in (((300, 100), 60, 100), ((100, 300), 60, 10), ((8, 8), 60, 30)):
        segments = picture(Image.new("RGB", size), columns, lines).segments
        high = sum(segment.text == "\n" for segment in segments)
        wide = (len(segments) - high) // high
        assert wide <= columns and high <= lines  # noqa: PT018
        assert abs(wide / (2 * high) - size[0] / size[1]) < 0.4 * size[0] / size[1]
    assert console.width == 200


def test_a_curve_has_the_width_that_there_is():
    assert "▁█" == curve([1.0, 2.0], 10)
    assert "_@" == curve([1.0, 2.0], 10, plain=True)
    assert 10 == len(curve([float(i) for i in range(95)], 10))
    assert "" == curve([], 10)
    assert "▁▁" == curve([3.0, 3.0], 10)
    assert "▁▃█" == curve([0.01, 0.2, 100.0], 10), "logarithmic"


def test_it_looks_once_where_there_is_no_terminal(tmp_path, capsys):
    folder = run_folder(tmp_path / "run")
    assert 0 == main(["watch", folder.url])
    assert "step 30 of 40" in " ".join(capsys.readouterr().out.split())


def test_a_folder_without_a_line_yet_is_no_error(tmp_path, capsys):
    folder = run_folder(tmp_path / "run", lines=0)
    assert 0 == main(["watch", folder.url, "--once"])
    assert "step 0 of 40" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["nowhere"], ["."], ["run", "--every", "0"], ["run", "--every", "x"], []])
def test_what_is_no_run_is_one_line(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_folder(tmp_path / "run")
    assert 2 == main(["watch", *argv])
    assert re.fullmatch(r"dimo watch: error: [^\n]+\n", capsys.readouterr().err)
