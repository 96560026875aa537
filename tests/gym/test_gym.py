"""``dimo gym``: the smallest table, which shows the known orders; and how it goes on."""

import json
from pathlib import Path
from typing import Any

import attrs
import pytest

from dimo_core.cli import main
from dimo_gym.cells import installed
from dimo_gym.command import Gym
from dimo_gym.floors import entropies, multi_information
from dimo_gym.joints import Known
from dimo_gym.methods import METHODS
from dimo_gym.overview import overview
from dimo_gym.report import spread
from dimo_gym.running import plan_of

Rows = dict[tuple[str, int], Any]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gym") / "out"
    assert main(["gym", "--smoke", "--workers", "1", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def found(smoke: Path) -> Any:
    return json.loads((smoke / "table.json").read_text())


def generators(found: Any, divergence: str = "jeffrey") -> Rows:
    own = [row for row in found["cells"] if row["divergence"] == divergence]
    return {(row["method"], row["steps"]): row["data"] for row in own}


def samplers(found: Any) -> Rows:
    return {(row["sampler"], row["steps"]): row["data"] for row in found["samplers"]}


def test_no_generator_from_masks_alone_beats_the_factorised_floor_in_one_step(found: Any) -> None:
    known = Known(joint="halves")
    floor = multi_information(entropies(known.p()[0], known.shape.length, known.shape.codes))
    (row,) = [row for row in found["floors"] if row["steps"] == 1]
    assert row["random"] == pytest.approx(floor) == row["best"]
    kl = generators(found)["dimo-masks", 1]["kl"]
    assert kl is None or kl >= floor - 1e-9
    assert generators(found, "rkl")["idlm", 1]["kl"] >= floor - 1e-9


def test_random_codes_among_the_masks_beat_the_factorised_floor_in_one_step(found: Any) -> None:
    floor = next(row["random"] for row in found["floors"] if row["steps"] == 1)
    dimo, sampler = generators(found)["dimo", 1], samplers(found)["random-order", 1]
    assert dimo["kl"] < floor
    assert dimo["tv"] < sampler["tv"] - 0.1
    assert dimo["outside"] < sampler["outside"] - 0.1


@pytest.mark.parametrize("sampler", ["random-order", "ancestral"])
def test_more_steps_do_not_hurt_an_exact_sampler(found: Any, sampler: str) -> None:
    rows, (one, two) = samplers(found), (1, 2)
    assert rows[sampler, two]["tv"] < rows[sampler, one]["tv"]
    assert rows[sampler, two]["kl"] < rows[sampler, one]["kl"]
    floors = {row["steps"]: row["random"] for row in found["floors"]}
    if sampler == "random-order":
        assert rows[sampler, one]["kl"] == pytest.approx(floors[one], abs=1e-4)
        assert rows[sampler, two]["kl"] <= floors[two] + 1e-4


def test_what_is_finished_is_kept_and_another_training_is_refused(
    smoke: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = sorted((smoke / "cells").iterdir())
    first = {path: path.stat().st_mtime_ns for path in cells}
    cells[0].unlink()
    table = (smoke / "table.md").read_text()
    assert main(["gym", "--smoke", "--workers", "1", "--out", str(smoke)]) == 0
    assert {path: path.stat().st_mtime_ns for path in cells[1:]} == dict([*first.items()][1:])
    assert cells[0].exists()
    assert (smoke / "table.md").read_text() == table  # trained anew, to the same numbers
    assert "### halves" in capsys.readouterr().out
    assert (smoke / "steps.png").read_bytes()[:4] == b"\x89PNG"
    assert main(["gym", "--out", str(smoke), "--summary"]) == 2
    assert "holds cells of" in capsys.readouterr().err


def test_a_whole_table_of_the_first_seed_comes_first_and_methods_keep_their_divergence() -> None:
    asked: dict[str, Any] = {name: field.default for name, field in attrs.fields_dict(Gym).items()}
    for name in ("out", "workers", "summary"):
        del asked[name]
    plan = plan_of(**asked)
    cells = plan.cells()
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)
    assert len(set(cells)) == len(cells)
    assert {cell.divergence for cell in cells if cell.method == "d-mmd"} == {"rkl"}
    assert {cell.divergence for cell in cells if cell.method == "di4c"} == {"none"}
    for name in ("dimo", "idlm", "sdtt"):
        tried = [c for c in cells if (c.method, c.joint, c.knows, c.steps) == (name, "markov", "exact", 4)]
        assert {cell.divergence for cell in tried} == {*installed().names("divergence")}
    assert {cell.steps for cell in cells if cell.joint == "halves"} == {1, 2, 4}  # 8 of 4 sites are 4
    assert {cell.steps for cell in cells if cell.joint == "markov"} == {1, 2, 4, 8}
    assert {cell.steps for cell in cells if cell.method == "pairs"} == {1}
    assert {cell.joint for cell in cells if cell.knows == "learnt"} == {"halves", "markov"}
    only = plan_of(**asked | {"divergences": ("tv",), "methods": ("dimo-data", "idlm")}).cells()
    assert {(cell.method, cell.divergence) for cell in only} == {("idlm", "tv")}


def test_the_whole_table_is_planned_for_45_minutes_of_two_cores_with_a_tenth_to_spare() -> None:
    asked: dict[str, Any] = {name: field.default for name, field in attrs.fields_dict(Gym).items()}
    plan = plan_of(**{name: asked[name] for name in asked if name not in ("out", "workers", "summary")})
    assert plan.core_seconds(plan.cells()) <= 0.9 * 2 * 45 * 60


def test_the_overview_compares_methods_at_the_same_joints_and_steps_alone() -> None:
    def row(joint: str, method: str, seed: int, tv: float) -> dict[str, Any]:
        facts = {"joint": joint, "knows": "exact", "steps": 1, "seed": seed, "data": {"tv": tv}}
        return {**facts, "method": method, "divergence": METHODS[method].divergence}

    plan = plan_of(smoke=True)
    plan = attrs.evolve(plan, joints=("halves", "markov"), steps=(1, 8))
    cells = [row("halves", "dimo", 0, 0.1), row("markov", "dimo", 0, 0.3)]
    cells += [row("halves", "dimo", 1, 0.2), row("markov", "dimo", 1, 0.4), row("halves", "idlm", 0, 0.0)]
    sampler = {"knows": "exact", "sampler": "random-order", "steps": 1}
    samplers = [{**sampler, "joint": joint, "data": {"tv": 0.5}} for joint in ("halves", "markov")]
    lines = overview(cells, samplers, plan, "exact").splitlines()
    assert lines[0] == "| exact teachers | 1 step |"  # 8 steps of 4 sites are 4
    assert lines[2:] == [
        "| teacher's sampler random-order | 0.500 |",
        f"| {METHODS['dimo'].about} | **0.250** ± 0.071 |",
    ]
    assert overview(cells[:1], [], plan, "exact") == ""


def test_what_diverged_and_what_is_outside_is_said() -> None:
    row = {"how": "exact", "data": {"tv": 0.25, "outside": 0.0}}
    assert spread([row, {"failed": "not finite"}]) == "0.250 (1 of 2 diverged)"
    assert spread([row, row]) == "0.250 +- 0.000"
    assert spread([{"how": "counted", "data": {"tv": 0.25, "outside": 0.1}}]) == "~0.250, 0.100"
    assert spread([]) == ""


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--methods", "[dimi]"], "unknown method 'dimi'"),
        (["--divergences", "[rlk]"], "unknown divergence 'rlk'"),
        (["--steps", "[0]"], "--steps: "),
        (["--joints", "[circle]"], "--joints: expected"),
        (["--speed", "2"], "unrecognized arguments"),
        (["--out"], "expected one argument"),
    ],
)
def test_what_there_is_not_is_refused(
    given: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gym", "--out", str(tmp_path / "g"), *given]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "g").exists()
