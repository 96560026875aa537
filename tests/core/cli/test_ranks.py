"""Commands that draw do so in several processes, and leave the files that one leaves."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dimo_core.cli import main

pytestmark = pytest.mark.slow  # a minute; how rows are shared is held by tests/core/engine/test_ranks.py

HERE, TESTS = Path(__file__).parent, Path(__file__).parents[2]
EMBEDDED = str(TESTS.parent / "teachers" / "dimo_maskgit" / "embedded")
FEW = ["--device", "cpu", "--batch-size", "5"]
SAMPLES = ["sample", "--teacher", "maskgit", "--steps", "2", "-n", "23", *FEW]
ROWS = ["compare", "--sampling-steps", "1", "--samples", "24", "--metrics", "fidelity", "digits", *FEW]
COMMANDS: dict[str, tuple[int, list[str], str]] = {
    "nameless": (2, SAMPLES, ""),
    **{f"drawn-{n}": (n, [*SAMPLES, "--out", f"drawn-{n}"], "") for n in (1, 4)},
    **{f"rows-{n}": (n, [*ROWS, "--out", f"rows-{n}", "--keep-samples", f"kept-{n}"], "") for n in (1, 2)},
    "broken": (2, [*SAMPLES, "--out", "again"], "broken"),
    "stopped": (4, [*SAMPLES, "--out", "again"], "stopped"),
    "again": (1, [*SAMPLES, "--out", "again"], ""),
    "refused": (2, [*SAMPLES, "--out", "rows-1"], ""),
}
"""How many processes, of which command, and what befalls the last one."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands were run; ``NAME.json`` holds exit codes and stderr of each."""
    place = tmp_path_factory.mktemp("ranks")
    paths = os.pathsep.join([str(TESTS), *sys.path])
    done = subprocess.run(
        [sys.executable, str(HERE / "ranks_program.py")],
        input=json.dumps(COMMANDS),
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "DIMO_CACHE": str(place / "cache")},
        cwd=place,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return place


def ended(place: Path, name: str) -> tuple[list[int], str]:
    codes, told = json.loads((place / f"{name}.json").read_text())
    return codes, told


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def numbers(folder: Path) -> list[dict[str, Any]]:
    rows = json.loads((folder / "results.json").read_text())["rows"]
    return [{k: v for k, v in row.items() if k not in ("seconds", "decoding")} for row in rows]


@pytest.mark.parametrize("name", [name for name, (_, _, trouble) in COMMANDS.items() if not trouble][:-1])
def test_all_processes_end_well(place: Path, name: str) -> None:
    codes, told = ended(place, name)
    assert ([0] * COMMANDS[name][0], 0) == (codes, told.count("rror")), told


@pytest.mark.parametrize("folder", ["drawn-4", "again"])
def test_samples_are_the_same_to_the_last_byte(place: Path, folder: str) -> None:
    expected = files(place / "drawn-1")
    assert 23 + 2 == len(expected)
    assert expected == files(place / folder)


def test_the_next_free_folder_is_taken_once(place: Path) -> None:
    (found,) = (place / "runs").iterdir()
    assert files(place / "drawn-1") == files(found)


def test_rows_have_the_same_numbers(place: Path) -> None:
    expected = numbers(place / "rows-1")
    assert ["teacher", "real"] == [row["kind"] for row in expected]
    assert expected == numbers(place / "rows-2")
    assert files(place / "rows-1").keys() == files(place / "rows-2").keys()


def test_kept_samples_are_the_same_to_the_last_byte(place: Path) -> None:
    one, two = (files(place / f"kept-{count}") for count in (1, 2))
    assert 24 + 1 == len(one)
    assert one == two


def test_one_process_tells_how_far_it_is(place: Path) -> None:
    assert 1 == ended(place, "nameless")[1].count(" of 10 samples")
    assert 1 == (place / "rows-2" / "run.log").read_text().count("report: ")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("broken", "it broke"),
        ("refused", "'rows-1' is not empty, and samples overwrite nothing. Choose another --out."),
    ],
)
def test_an_error_is_that_of_all_and_is_told_once(place: Path, name: str, text: str) -> None:
    codes, told = ended(place, name)
    assert [2, 2] == codes
    assert [text] == re.findall(r"dimo sample.*: error: (.*)", told)


def test_what_stops_one_stops_all(place: Path) -> None:
    codes, told = ended(place, "stopped")
    assert [130] * 4 == codes
    assert [] == re.findall(r"unexpected|Traceback", told)


def test_a_share_and_a_launcher_are_not_given_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert 2 == main(["evaluate", EMBEDDED, "--shard", "1/2", "--out", str(tmp_path / "out")])
    assert "--shard draws one part, and WORLD_SIZE is 2: a launcher" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
