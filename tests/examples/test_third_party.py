"""A stranger's package: installed by pip alone, it is listed, and its teacher is distilled to a report."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dimo_core.testing import check_sampler

TESTS = Path(__file__).parents[1]
PACKAGE = TESTS.parent / "examples" / "dimo-toy-tabular"
TEACHER_AT_ONE_STEP = 0.9457
"""Total variation between the product of the teacher's marginals and its joint distribution, exactly."""

Dimo = Callable[..., str]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package in a throwaway target; pip may use nothing but what is installed here."""
    folder = tmp_path_factory.mktemp("site")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
    ]
    _run([*pip, "--disable-pip-version-check", "--target", str(folder), str(PACKAGE)], os.environ)
    return folder


@pytest.fixture(scope="module")
def dimo(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dimo]:
    """The command, with the target on the path, in an empty folder; libraries are imported once for all."""
    paths = [str(target), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "COLUMNS": "200",
        "OMP_NUM_THREADS": "1",
    }
    folder = tmp_path_factory.mktemp("work")
    command, pipe = [sys.executable, str(TESTS / "forked.py")], subprocess.PIPE
    with subprocess.Popen(
        command, env=environment, cwd=folder, text=True, stdin=pipe, stdout=pipe
    ) as process:

        def run(*words: str) -> str:
            print(json.dumps(words), file=process.stdin, flush=True)
            code, out, err = json.loads(process.stdout.readline())
            assert code == 0, err
            return out

        yield run
        process.stdin.close()


def _run(command: Sequence[str], environment: Any, folder: Path | None = None) -> str:
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(run: Path) -> dict[str, dict[str, float]]:
    """The metrics of each row of the table."""
    table = json.loads((run / "evaluation.json").read_text())
    return {row["name"]: row["metrics"] for row in table["rows"]}


def sides(samples: Path) -> list[str]:
    """The condition of each sample."""
    return [json.loads(line)["condition"] for line in (samples / "samples.jsonl").read_text().splitlines()]


def test_installing_it_is_all_it_takes_to_be_listed(dimo: Dimo) -> None:
    listed = [line.split()[:2] for line in dimo("plugins").splitlines() if "dimo-toy-tabular 0.1.0" in line]
    assert sorted(listed) == [
        ["conditions", "coins"],
        ["divergence", "bhattacharyya"],
        ["divergence", "perimeter"],
        ["metric", "tabular"],
        ["teacher", "tabular"],
    ]


def test_its_options_appear_in_the_help(dimo: Dimo) -> None:
    text = " ".join(dimo("run", "--teacher", "tabular", "--help").split())
    assert (
        "--teacher.noise NOISE Share of the joint distribution that is spread evenly over all sequences."
        in text
    )
    assert "--conditions.heads HEADS Probability of heads. (float, default: 0.5)" in text


@pytest.mark.parametrize("divergence", ["bhattacharyya", pytest.param("perimeter", marks=pytest.mark.slow)])
def test_its_teacher_is_distilled_to_a_report(dimo: Dimo, tmp_path: Path, divergence: str) -> None:
    """A short run, so the bound is loose; 0.23 to 0.31 were measured over three seeds."""
    run = tmp_path / "run"
    options = [
        "--divergence",
        divergence,
        "--steps",
        "200",
        "--train.batch_size",
        "128",
        "--eval.samples",
        "4000",
    ]
    dimo("run", "--teacher", "tabular", *options, "--out", str(run))
    page, table = (run / "report.html").read_text(), rows(run)
    assert all(name in page for name in ("tabular", divergence, "coins", "tv", *table))
    assert list(table) == ["teacher, 4 steps", "teacher, 2 steps", "teacher, 1 step", "generator, 1 step"]
    assert table["teacher, 4 steps"]["tv"] < 0.06
    assert table["teacher, 1 step"]["tv"] == pytest.approx(TEACHER_AT_ONE_STEP, abs=0.02)
    assert table["generator, 1 step"]["tv"] < 0.4
    assert table["generator, 1 step"]["of_one_step"] < 0.4 / TEACHER_AT_ONE_STEP
    samples = tmp_path / "samples"
    dimo("sample", str(run), "-n", "5", "--conditions", "1", "heads", "--out", str(samples))
    assert ["tails", "heads"] * 2 + ["tails"] == sides(samples)


def test_conditions_of_a_teacher_are_read_and_spread_by_the_source_it_suggests(
    dimo: Dimo, tmp_path: Path
) -> None:
    sample = ["sample", "--teacher", "tabular", "-n", "3", "--out", str(tmp_path / "samples")]
    with pytest.raises(AssertionError, match=r"unknown class 'edge'\. Known: heads, tails"):
        dimo(*sample, "--conditions", "edge")
    assert not (tmp_path / "samples").exists()
    dimo(*sample)
    assert ["heads", "tails", "heads"] == sides(tmp_path / "samples")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("divergence", ["bhattacharyya", "perimeter", "jeffrey"])
def test_the_generator_is_near_the_joint_distribution(
    dimo: Dimo, tmp_path: Path, divergence: str, seed: int
) -> None:
    """The preset; 0.04 to 0.08 were measured."""
    run = tmp_path / "run"
    options = ["--divergence", divergence, "--seed", str(seed)]
    dimo("run", "--teacher", "tabular", *options, "--out", str(run))
    assert rows(run)["generator, 1 step"]["tv"] < 0.12


def test_a_foreign_source_of_conditions_is_refused_in_one_line(
    target: Path, dimo: Dimo, tmp_path: Path
) -> None:
    with pytest.raises(
        AssertionError, match="conditions 'labels' draws class labels, but the teacher takes 'coin'"
    ):
        dimo("run", "--teacher", "tabular", "--conditions", "labels", "--out", str(tmp_path / "run"))


def test_its_own_tests_pass_where_it_is_installed(target: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}
    pytest_ = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts="]
    assert " passed" in _run([*pytest_, str(PACKAGE / "tests")], environment, target)


def test_shipped_samplers_take_its_teacher(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dimo_samplers.maskgit import MaskGitSampler

    monkeypatch.syspath_prepend(str(target))
    from dimo_toy_tabular.teacher import Tabular

    check_sampler(MaskGitSampler(order="random"), Tabular(), [0, 1, 0])
