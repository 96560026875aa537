"""One rule for all commands: what seeds are, and how they end where nothing is."""

import re
from pathlib import Path

import pytest

import dimo_core
from dimo_core.cli import main

LARGEST = 2**63 - 1


@pytest.mark.parametrize("given", ["-4", "-1", "x", "1.5", str(LARGEST + 1), "9" * 26, "9" * 90])
@pytest.mark.parametrize(
    "command",
    [
        ["sample", "g"],
        ["sample", "--teacher", "maskgit"],
        ["run"],
        ["pretrain"],
        ["compare"],
        ["evaluate", "g"],
    ],
    ids=" ".join,
)
def test_a_seed_that_is_none_is_refused(
    command: list[str],
    given: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--seed", given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "seed" in line
    number = given.lstrip("-").isdecimal()
    assert not number or ">= 0" in line or f"to {LARGEST}" in line
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        ["sample", "nowhere"],
        ["demo", "nowhere"],
        ["export", "nowhere", "--merge"],
        ["export", "nowhere", "--format", "folder"],
        ["push", "nowhere", "hf://a/b", "--dry-run"],
        ["compare", "--generators", "nowhere"],
        ["evaluate", "nowhere"],
        ["watch", "nowhere"],
        ["run", "--resume", "nowhere"],
        ["run", "--generator.init", "nowhere", "--dry-run"],
        ["config", "nowhere"],
        ["sample", "--teacher", "maskgit", "--prompts-from", "/nowhere.txt"],
    ],
    ids=" ".join,
)
def test_a_path_that_is_not_there_is_wrong_usage(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "nowhere" in line
    assert [] == list(tmp_path.iterdir())


def test_a_batch_beyond_any_machine_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", "--batch-size", "100000000000", "--dry-run"]) == 2
    assert "must be <= 1048576: 100000000000" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["my own", "my\nown", "mine!"])
def test_a_licence_is_an_identifier(given: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert main(["export", "nowhere", "--format", "folder", "--license", given, "--out", out]) == 2
    assert "is no SPDX identifier" in capsys.readouterr().err
    assert [] == list(tmp_path.iterdir())


def test_no_help_shows_markup(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("data image-shards", "conditions prompts"):
        option, _, name = kind.partition(" ")
        command = "pretrain" if option == "data" else "run"
        assert main([command, f"--{option}", name, "--help"]) == 0
        out = capsys.readouterr().out
        assert "`" in out
        assert "``" not in out


def test_a_summary_measures_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gym", "--summary", "--out", str(tmp_path / "gym")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "nothing to sum up" in line
    assert [] == list(tmp_path.iterdir())


def test_paths_of_lines_to_copy_are_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my run").mkdir()
    (tmp_path / "my run" / "mine.txt").write_text("")
    assert main(["run", "--out", "my run", "--train.steps", "1"]) == 2
    assert "--resume 'my run', or" in capsys.readouterr().err
    root = Path(dimo_core.__file__).parents[1]
    places = "out|resume|tokens|config|teacher.checkpoint"
    bare = re.compile(
        rf"--({places})( |\"\n\s+f\")\{{(?!quote\(|\}}|AUTO|options)|checkpoint \{{\}}\", (?!quote)"
    )
    files = [*(root / "dimo_core").rglob("*.py"), *(root / "plugins").rglob("*.py")]
    assert [] == [file for file in files if file.name != "load.py" and bare.search(file.read_text())]


def test_a_push_tells_nothing_of_temporary_folders() -> None:
    said = (Path(dimo_core.__file__).parent / "jobs" / "export.py").read_text()
    function = said[said.index("def export_generator") : said.index("def _check_empty")]
    assert not re.search(r"logger\.\w+\(.*folder", function)
