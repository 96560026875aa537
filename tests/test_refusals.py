"""What is wrong on a command line: one line that says what to do, and nothing left behind."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from dimo_core.cli import main
from dimo_core.files.folder import Folder
from dimo_core.report.comparison_files import read_result

SIZES = {
    "heads": (
        ["--model.heads", "7"],
        "model.heads: must divide the width: 7 heads, --model.width 96. Of that",
    ),
    "width": (
        ["--model.width", "2"],
        "model.heads: must divide the width: 4 heads, --model.width 2. Of that",
    ),
    "depth": (["--model.depth", "20000"], "--model.depth or --model.mlp: 20,000 layers; 10,000 is the most"),
    "mdlm width": (
        ["--teacher", "mdlm", "--model.width", "32"],
        "model.heads: must divide the width into multiples of 2: 6 heads, --model.width 32. Of "
        "that width are allowed: 1, 2, 4, 8, 16. Set",
    ),
    "mdlm depth": (
        ["--teacher", "mdlm", "--data", "scripture", "--model.depth", "20000"],
        "--model.width, --model.depth or --model.conditioning: 20,000 layers",
    ),
    "meissonic text heads": (
        ["--teacher", "meissonic", "--model.text.heads", "7"],
        "--model.text.heads: must divide the width: 7 heads, --model.text.width 64.",
    ),
    "meissonic channels": (
        ["--teacher", "meissonic", "--model.images.channels", "7"],
        "--model.images.channels: must be a multiple of 8: 7",
    ),
}
"""Options of `dimo pretrain`, and what is said of them."""


def refused(words: Sequence[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """The one line of error that a command ends with."""
    assert code == main([*words])
    errors = [line for line in capsys.readouterr().err.splitlines() if ": error: " in line]
    assert 1 == len(errors), errors
    return errors[0]


@pytest.mark.parametrize("case", SIZES)
def test_impossible_sizes_of_a_new_teacher_name_their_options(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, said = SIZES[case]
    assert said in refused(["pretrain", *options, "--out", str(tmp_path / "p")], capsys)


def pictures(folder: Path, *sides: int) -> str:
    """A folder of two classes with gray pictures of these sides, and its path."""
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for number, side in enumerate(sides):
            Image.new("L", (side, side), 40 * number).save(folder / name / f"{number}.png")
    return str(folder)


def test_a_pretraining_that_fails_as_it_starts_leaves_room_for_the_corrected_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "p"
    given = [
        "--data",
        "image-folder",
        "--data.path",
        pictures(tmp_path / "pictures", 8, 8),
        "--data.size",
        "8",
    ]
    for wrong in (["--model.patch", "3"], ["--model.codes", "9999"]):
        for _ in range(2):
            assert "is not empty" not in refused(["pretrain", *given, *wrong, "--out", str(out)], capsys)
            assert not out.exists()


def test_an_evaluation_that_fails_as_it_starts_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "e"
    wrong = pictures(tmp_path / "pictures", 8, 6)
    assert "pictures of different sizes" in refused(["evaluate", wrong, "--out", str(out)], capsys)
    assert not out.exists()


def test_a_run_that_has_not_finished_is_not_judged_by_its_sheets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "k9"
    pictures(run / "samples", 8)
    for section, command, what in (("teacher", "run", "generator"), ("model", "pretrain", "teacher")):
        Folder(str(run)).write_yaml("config.yaml", {section: {}, "train": {}})
        todo = f"Continue it with `dimo {command} --resume {run}`"
        said = f"no {what} in '{run}' yet: this run has not finished. {todo}"
        assert f"{said}." in refused(["evaluate", str(run)], capsys, 1)
        assert f"{said}." in refused(["sample", str(run)], capsys, 1)
    Folder(str(run)).write("checkpoints/best/generator.yaml", b"")
    assert f"{said}, or take the best so far, {run}/checkpoints/best." in refused(
        ["sample", str(run)], capsys, 1
    )


def test_of_pictures_as_many_are_judged_as_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, out = pictures(tmp_path / "pictures", *[8] * 6), tmp_path / "e"
    words = ["evaluate", given, "--out", str(out), "--protocol", "quick"]
    wrong = refused([*words, "--samples", "13"], capsys)
    assert f"--samples 13: '{given}' holds 12 pictures. Ask for as many at most" in wrong
    for options, count in (([], 12), (["--samples", "5"], 5)):
        assert 0 == main([*words[:3], str(out / str(count)), *words[4:], *options])
        rows = read_result(str(out / str(count))).table.rows
        assert [count] == [row.samples for row in rows if row.kind == "images"]
        told = (out / str(count) / "run.log").read_text()
        assert "pictures as they are, by the protocol 'quick" in told
        assert "0 rows" not in told


PLACES = {
    **dict.fromkeys(("maskgit", "mdlm", "meissonic"), "checkpoint"),
    **dict.fromkeys(("llada", "dream"), "path"),
}
"""Teachers whose weights lie in files, and their option for the place."""

NOISE = b"noise" * 20
FILES = {"bad.yaml": b"a: 1", "empty.pth": b"", "noise.pth": NOISE, "noise.safetensors": NOISE}


@pytest.mark.parametrize("name", [*FILES, "nowhere.pth", "nowhere"])
@pytest.mark.parametrize("teacher", PLACES)
def test_what_holds_no_weights_is_said_to_hold_none(
    teacher: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    if name in FILES:
        path.write_bytes(FILES[name])
    given = ["--teacher", teacher, f"--teacher.{PLACES[teacher]}", str(path), "--out", str(tmp_path / "out")]
    given += ["--conditions", "Why?"] if PLACES[teacher] == "path" else []
    nothing = (f"no file {path}", f"no teacher in '{path}': there is no such file or folder")
    for command in ("sample", "convert") if teacher in ("maskgit", "mdlm", "meissonic") else ("sample",):
        assert 1 == main([command, *given])
        said = capsys.readouterr().err.partition(": error: ")[2]
        if name.startswith("nowhere"):
            assert said.startswith(nothing)
        elif name == "bad.yaml" or teacher not in ("maskgit", "mdlm"):
            assert said.startswith(f"no teacher in '{path}': that is a file, and a folder")
        else:
            what = "looks like an empty file" if name == "empty.pth" else "begins with"
            assert said.startswith(f"{path} is neither safetensors nor a file of torch.save. It {what}")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("teacher", PLACES)
def test_a_hub_that_does_not_answer_is_what_is_told_last(
    teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Lost(MemoryFileSystem):
        protocol = "hf"

        def info(self, path: str, **_: Any) -> dict[str, Any]:
            raise ConnectionError("no network here")

    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "hf", Lost)
    monkeypatch.setenv("DIMO_CACHE", str(tmp_path / "cache"))
    given = [f"--teacher.{PLACES[teacher]}", "hf://nobody/nothing", "--out", str(tmp_path / "out")]
    said = refused(["sample", "--teacher", teacher, *given, "--conditions", "0"], capsys, 1)
    assert "hf://nobody/nothing/" in said
    assert "ConnectionError: no network here" in said
    assert "Check the address, the connection and your access rights" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("teacher", "protocol", "library", "extra"),
    [
        *((teacher, "s3", "s3fs", "s3") for teacher in PLACES),
        *((teacher, "hf", "huggingface_hub", "hub") for teacher in ("maskgit", "mdlm", "meissonic")),
    ],
)  # the others need transformers, which brings huggingface_hub
def test_a_library_for_a_protocol_that_is_missing_is_told_with_its_extra(
    teacher: str,
    protocol: str,
    library: str,
    extra: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)
    monkeypatch.setenv("DIMO_CACHE", str(tmp_path / "cache"))
    given = [f"--teacher.{PLACES[teacher]}", f"{protocol}://nobody/nothing", "--out", str(tmp_path / "out")]
    said = refused(["sample", "--teacher", teacher, *given, "--conditions", "0"], capsys, 1)
    assert f"Run: pip install 'dimo[{extra}]'" in said
    assert "StorageError" not in said
    assert "Give a path" not in said
