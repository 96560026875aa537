"""What gpu.sh does with parts that pass, fail or run out of time, and its report."""

import argparse
import json
import os
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
LOG = """\
tests/gpu/test_a.py::test_one[cuda-x y] PASSED            [ 25%]
tests/gpu/test_a.py::test_two FAILED                      [ 50%]
tests/gpu/test_a.py::test_three SKIPPED (a rehearsal)     [ 75%]
tests/gpu/test_a.py::test_four
"""


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_report

    return gpu_report


def given(report: ModuleType, monkeypatch: pytest.MonkeyPatch, out: Path, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", str(out), "--device", "cpu", *words])
    with pytest.raises(SystemExit) as ended:
        report.main()
    return int(ended.value.code or 0)


def measured(name: str, seconds: float) -> dict[str, Any]:
    row = {
        "seconds": seconds,
        "peak_bytes": int(seconds * 2**30),
        "share_of_floor": 0.5,
        "kernels": {"mm": 1.0},
    }
    return {"batch": 4, "operations_of_F": 6e12, "passes": 8, "rate": 4e14, "rows": {name: row}}


def test_what_parts_measured_is_put_together(report: ModuleType, tmp_path: Path) -> None:
    for name, seconds in (("released", 3.0), ("fast", 1.5)):
        (tmp_path / f"meissonic, {name}.json").write_text(
            json.dumps({"machine": "a card", "meissonic": measured(name, seconds)})
        )
    (tmp_path / "heads.json").write_text('{"maskgit, generator, bf16": 0.05}')
    sizes = {"teacher": [8, 0], "generator": [9, 1000], "auxiliary": [9, 234]}
    llada = {"parameters": sizes, "planned": 2**31, "measured": 2**30, "seconds": 0.5}
    (tmp_path / "billions.json").write_text(json.dumps({"machine": "a card", "llada": llada}))
    found = report.gathered(tmp_path)
    assert {"released", "fast"} == set(found["meissonic"]["rows"])
    parts = {"tests": {"state": "out of time", "seconds": 9.0, "at_most": 9.0, "tail": "the end"}}
    results = {"machine": {"card": "H100", "lacks": []}, "parts": parts, "tests": report.tested(LOG)}
    page = report.markdown({**results, "measured": found})
    assert "| card | H100 |" in page
    assert "| lacks | none |" in page
    assert "| tests | out of time | 9.0 | 9.0 |" in page
    assert (
        "Tests: 1 passed, 1 failed, 0 error, 1 skipped.\n* not passed: `tests/gpu/test_a.py::test_two`"
        in page
    )
    assert "| fast | 1.5000 | 2.00 | 1.50 | 0.50 | 400.00 | 0.50 |" in page
    assert "| maskgit, generator, bf16 | 5.00% |" in page
    assert "| llada | 1,234 | 2.00 | 1.00 | 0.500 |" in page
    assert "```\nthe end\n```" in page


def test_tests_that_several_processes_ran_are_counted(report: ModuleType) -> None:
    lines = (
        "[gw0] [  2%] PASSED tests/gpu/test_a.py::test_c[x y] ",
        "[gw1] [100%] FAILED tests/gpu/test_a.py::test_b",
    )
    found = report.tested("\n".join([LOG, *lines]))
    assert (2, 2) == (found["passed"], found["failed"])
    assert ["tests/gpu/test_a.py::test_two", "tests/gpu/test_a.py::test_b"] == found["not_passed"]


def test_parts_that_fail_or_run_out_of_time_are_told_and_the_others_are_run(
    report: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(report, "FACTS", 'print(\'{"torch": "1"}\')')
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    parts = {
        "hangs": (1.5, ["-c", child]),
        "fails": (30, ["-c", "raise SystemExit('no such card')"]),
        "works": (30, ["-c", "import dimo_maskgit, os; print(os.environ['DIMO_GPU_TESTS_ON'])"]),
        "late": (30, ["-c", "pass"]),
    }
    monkeypatch.setattr(report, "parts_of", lambda out, given: parts)
    assert 1 == given(report, monkeypatch, tmp_path, "--limit", "late=0.5")
    results = json.loads((tmp_path / "results.json").read_text())
    states = {name: part["state"] for name, part in results["parts"].items()}
    assert {"hangs": "out of time", "fails": "failed", "works": "passed", "late": "no time left"} == states
    assert "no such card" in results["parts"]["fails"]["tail"]
    assert "cpu" == (tmp_path / "works.log").read_text().strip()
    assert "1" == results["machine"]["torch"]
    assert "| fails | failed |" in (tmp_path / "results.md").read_text()
    assert 0 == given(report, monkeypatch, tmp_path, "--parts", "works")


@pytest.mark.slow
def test_the_script_runs_from_start_to_end_with_parts_that_fail_and_run_out_of_time(tmp_path: Path) -> None:
    """A rehearsal, at sizes for a CPU; the folder of tests that it is given does not exist."""
    small = [
        "--device",
        "cpu",
        "--size",
        "tiny",
        "--precision",
        "fp32",
        "--rounds",
        "1",
        "--tests",
        "tests/none",
    ]
    parts = ["--parts", "tests", "meissonic", "heads", "--limit", "heads=1.5", "meissonic, fast, compiled=2"]
    script = ["bash", str(BENCHMARKS / "gpu.sh"), str(tmp_path / "out"), *small, *parts]
    limits = ["meissonic, released=300", "meissonic, paper=300", "meissonic, fast=300", "--minutes", "30"]
    run = subprocess.run([*script, *limits], capture_output=True, text=True, timeout=1800, check=False)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    states = {name: part["state"] for name, part in results["parts"].items()}
    quick = ("meissonic, released", "meissonic, paper", "meissonic, fast")
    late = dict.fromkeys(("meissonic, fast, compiled", "heads"), "out of time")
    assert {"tests": "failed", **dict.fromkeys(quick, "passed"), **late} == states, run.stderr
    assert {"released", "paper", "fast"} == set(results["measured"]["meissonic"]["rows"])
    assert "| fast | " in (tmp_path / "out" / "results.md").read_text()
    assert 1 == run.returncode
    assert (tmp_path / "out" / "meissonic, fast.log").exists()


def test_a_script_without_a_folder_says_how_it_is_used() -> None:
    run = subprocess.run(["bash", str(BENCHMARKS / "gpu.sh")], capture_output=True, text=True, check=False)
    assert 2 == run.returncode
    assert "bash benchmarks/gpu.sh OUT" in run.stdout


def test_an_old_python_is_named(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.1 && exit 0\nexit 1\n')
    old.chmod(0o755)
    script = ["bash", str(BENCHMARKS / "gpu.sh"), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHON": str(old)}
    run = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert 2 == run.returncode
    assert f"needs Python 3.11 or newer; {old} is Python 3.9.1. Name another one in PYTHON." in run.stderr


def test_all_parts_together_take_less_than_is_allowed(report: ModuleType, tmp_path: Path) -> None:
    options = {
        "workers": 2,
        "device": "cuda",
        "size": "full",
        "precision": "bf16",
        "rounds": 8,
        "tests": "tests/gpu",
    }
    parts = report.parts_of(tmp_path, argparse.Namespace(**options))
    assert sum(seconds for seconds, _ in parts.values()) <= 9 * 60 - 20
    files = {
        word
        for _, command in parts.values()
        for word in command
        if word.startswith(("benchmarks/", "tests/"))
    }
    scripts = {f"benchmarks/{name}.py" for name in ("billions", "step", "bf16_heads")}
    assert scripts | {"tests/gpu"} == files
    assert all((report.TREE / name).exists() for name in files)


def test_plugins_of_a_tree_that_is_not_installed_are_found(report: ModuleType, tmp_path: Path) -> None:
    environment = report.environment_in(str(tmp_path))
    (dimo,) = distributions(path=[str(tmp_path)])
    assert ("dimo", report.PROJECT["version"]) == (dimo.name, dimo.version)
    assert report.PROJECT["entry-points"]["dimo"] == {point.name: point.value for point in dimo.entry_points}
    places = environment["PYTHONPATH"].split(os.pathsep)
    for point in dimo.entry_points:
        package = point.module.partition(".")[0]
        assert any((Path(place) / package).is_dir() for place in places), package


def test_what_a_python_lacks_is_named(report: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name in ("torch", "jsonargparse"):
            raise report.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(report, "version", version)
    assert ["torch", "jsonargparse[signatures]"] == [each.split(">")[0] for each in report.lacks()]
    assert set(report.TOOLS) < set(report.wanted())


@pytest.mark.slow
def test_large_language_models_are_planned_and_measured_in_one_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import billions

    numbers = tmp_path / "billions.json"
    words = [
        "billions.py",
        "--device",
        "cpu",
        "--size",
        "tiny",
        "--families",
        "llada",
        "--json",
        str(numbers),
    ]
    monkeypatch.setattr(sys, "argv", words)
    billions.main()
    found = json.loads(numbers.read_text())["llada"]
    assert found["parameters"]["teacher"][1] == 0 < found["parameters"]["generator"][1]
    assert found["planned"] == pytest.approx(found["measured"], rel=0.1)
    assert "llada: planned" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llada", "dream"])
def test_a_folder_of_random_weights_is_read_as_a_published_one(
    family: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import billions_files

    from dimo_dllm.teacher import Dream, Llada

    monkeypatch.setattr(billions_files, "SHARD", 2**16)
    monkeypatch.setattr(sys, "argv", ["billions_files.py", family, str(tmp_path / "made"), "--size", "tiny"])
    billions_files.main()
    assert len([*(tmp_path / "made").glob("*.safetensors")]) > 1
    made = Llada if family == "llada" else Dream
    teacher = made(path=str(tmp_path / "made"), prompt=128, answer=8)
    teacher.check()
    assert all(p.isfinite().all() for p in teacher.network().parameters())
    assert (teacher.encode_conditions(["one and one?"])["valid"].sum(1) == 8).all()


@pytest.mark.slow
def test_the_published_sizes_are_those_of_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from billions import drawn

    with torch.device("meta"):
        llada, dream = (drawn(family, "full").skeleton() for family in ("llada", "dream"))
    assert 8_015_581_184 == sum(p.numel() for p in llada.parameters())
    assert 7_615_616_512 == sum(p.numel() for p in dream.parameters())
