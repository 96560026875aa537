"""Benchmarks measure what they say: operations, the emulation's parts, what is trained, and whole tables."""

import argparse
import json
from pathlib import Path
from statistics import fmean, stdev
from types import ModuleType

import pytest
import torch

from dimo_core.config.distil import resolve_job
from dimo_core.evaluation.table import Row

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """Scripts are no package: they find one another in their folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import adapters
    import released
    import shapes
    import step

    return {"adapters": adapters, "released": released, "shapes": shapes, "step": step}


SLOWER = pytest.param("meissonic", 17.5e12 / 12, marks=pytest.mark.slow)


@pytest.mark.parametrize(("teacher", "operations"), [("maskgit", 2 * 46.9e9), SLOWER])
def test_a_forward_pass_has_the_operations_that_were_counted_by_hand(
    modules: dict[str, ModuleType], teacher: str, operations: float
) -> None:
    shape = modules["shapes"].SHAPES[teacher]("full")
    found, products = modules["step"].forward_cost(shape, 1)
    assert found == pytest.approx(operations, rel=0.02)
    assert found > sum(2 * m * k * n * count for (m, k, n), count in products.items()) > 0.8 * found
    assert 2 * found == modules["step"].forward_cost(shape, 2)[0]


def test_attention_that_keeps_its_weights_gives_the_same(modules: dict[str, ModuleType]) -> None:
    teacher = modules["shapes"].SHAPES["maskgit"]("tiny").teacher(False, False)
    x, c = torch.arange(32).view(2, 16), torch.tensor([0, 3])
    plain, keeping = teacher.network(), teacher.network()
    modules["released"].keep_weights(keeping)
    with torch.no_grad():
        expected, found = (n.logits(x, c, mask_ratio=torch.zeros(2)) for n in (plain, keeping))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    kept = keeping.transformer.layers[0][0].fn.mha.kept
    torch.testing.assert_close(kept.sum(-1), torch.ones(2, 17))


@pytest.mark.parametrize("teacher", ["maskgit", "meissonic"])
def test_the_released_step_trains_two_networks_and_an_average(
    modules: dict[str, ModuleType], teacher: str
) -> None:
    made = modules["released"].Released.of(modules["shapes"].SHAPES[teacher]("tiny"), 2, CPU, "fp32", teacher)
    start = made.teacher.network().state_dict()
    made.step()
    phi, theta, psi, average = (network.state_dict() for network in made.networks)
    trained = {n for n, p in made.networks[1].named_parameters() if p.requires_grad}
    frozen = set(made.teacher.frozen_parameters())
    assert set(dict(made.networks[1].named_parameters())) == trained | frozen
    for name, before in start.items():
        assert torch.equal(before, phi[name])
        assert (
            (name in trained)
            == (not torch.equal(before, theta[name]))
            == (not torch.equal(before, psi[name]))
        )
        torch.testing.assert_close(average[name], 0.1 * before + 0.9 * theta[name], atol=1e-7, rtol=1e-6)


@pytest.mark.slow
def test_tables_have_all_contenders(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    step, contenders = modules["step"], ["released", "paper", "fast"]
    given = argparse.Namespace(
        size="tiny", contenders=contenders, precision="fp32", batch=2, rounds=1, where=CPU
    )
    found = step.measure("maskgit", given)
    assert contenders == list(json.loads(json.dumps(found))["rows"])
    assert all(row["seconds"] > 0 and row["peak_bytes"] > 2**17 for row in found["rows"].values())
    assert all(0 < step.elsewhere(row["kernels"]) < 1 for row in found["rows"].values())
    assert all(f"| {one} |" in step.markdown("maskgit", found) for one in contenders)


@pytest.mark.parametrize("teacher", ["maskgit", "meissonic"])
def test_adapters_and_whole_networks_differ_in_what_is_trained_and_how_fast(
    modules: dict[str, ModuleType], teacher: str
) -> None:
    contenders = modules["adapters"].CONTENDERS
    found = [resolve_job(contender.options(teacher)).config for contender in contenders]
    assert [one["generator"].get("rank") for one in found] == [None, 4, 16, 64]
    for part in ("generator", "auxiliary"):
        assert [one[part].get("rank") for one in found] == [None, 4, 16, 64]
        rates = [one["objective"][part].pop("lr") for one in found]
        assert rates == [rates[0] * contender.rate for contender in contenders]
    assert all(one["objective"] == found[0]["objective"] for one in found)


def test_runs_of_one_seed_come_before_those_of_the_next(modules: dict[str, ModuleType]) -> None:
    adapters = modules["adapters"]
    given = argparse.Namespace(teachers=["maskgit", "meissonic"], seeds=(0, 1, 2), look=False)
    found = list(adapters.trainings(given))
    assert [seed for _, _, seed in found] == [0] * 8 + [1] * 8 + [2] * 8
    assert len({contender.folder(teacher, 1, seed) for teacher, contender, seed in found}) == 24


def test_adapters_are_a_table_of_means_prices_and_gaps(modules: dict[str, ModuleType]) -> None:
    adapters = modules["adapters"]
    whole, four, *_ = adapters.CONTENDERS

    def row(name: str, kind: str, **metrics: float) -> Row:
        return Row(name=name, kind=kind, samples=10, metrics=metrics)

    runs = {
        (whole, False): [row("a", "generator", fid=1.0, readable=0.5)],
        (four, False): [row("b", "generator", fid=2.0), row("c", "generator", fid=4.0)],
        (adapters.Contender(rank=16, rate=1.0), True): [row("d", "generator", fid=3.0)],
    }
    plans = {0: (9000, 3 * 2**20), 4: (100, 2**20), 16: (400, 2**20), 64: (1600, 2**20)}
    cost = {"whole networks": 2.0, "LoRA, r = 4": 1.0, "LoRA, r = 16": 1.5, "LoRA, r = 64": 3.0}
    lines = adapters.table("maskgit", [row("maskgit, 16 steps", "teacher", fid=0.5)], runs, plans, cost)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines.splitlines()]
    assert len({len(line) for line in cells}) == 1
    found = {(line[0], line[1]): line[2:8] for line in cells}
    assert found["teacher, 16 steps", ""] == ["", "", "", "", "0.500", "-"]
    assert found["whole networks", "x1"] == ["1", "9,000", "3", "1.00", "1.000", "0.500"]
    assert found["LoRA, r = 4", f"x{four.rate:g}"] == ["2", "100", "1", "0.50", "3.000 ±1.414", "-"]
    assert found["LoRA, r = 64", f"x{four.rate:g}"][0] == "not measured"
    assert found["LoRA, r = 16, seed 3", "x1"] == ["1", "", "", "", "3.000", "-"]
    assert found["LoRA, r = 16, seed 3", "x10"] == ["not measured", "", "", "", "-", "-"]


def test_records_of_other_seeds_are_pooled_and_none_counts_twice(
    modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    import records

    def record(*values: float, first: int = 0, method: str = "sdtt") -> records.Record:
        several = stdev(values) if len(values) > 1 else 0.0
        return records.Record(
            teacher="maskgit",
            method=method,
            steps=2,
            seeds=tuple(range(first, first + len(values))),
            passes=2,
            metrics={"fid": (fmean(values), several)},
        )

    old, other = record(1.0, 2.0), record(7.0, method="idlm")
    (both,) = records.by_method(records.joined([old], [record(5.0, first=2)]))
    assert (0, 1, 2) == both.seeds
    assert pytest.approx((fmean([1, 2, 5]), stdev([1, 2, 5]))) == both.metrics["fid"]
    assert both.shown("fid").startswith("2.667 ±2.082")
    assert "-" == both.shown("kid")
    assert [old] == records.joined([old], [record(9.0)]), "half of what it holds"
    again = [record(3.0), record(4.0, first=1)]
    assert [other, *again] == records.joined([old, other], again)
    records.write(tmp_path / "r.json", [old, other])
    assert [old, other] == records.read(tmp_path / "r.json")
    assert [] == records.read(tmp_path / "none.json")


def test_the_tables_of_few_steps_are_those_of_their_records(modules: dict[str, ModuleType]) -> None:
    import few_steps
    import records

    results = BENCHMARKS.parent / "docs" / "results"
    found = [*records.by_method(records.read(results / few_steps.RECORDS))]
    for teacher in few_steps.CASES:
        _, _, *rows = few_steps.table(teacher, [], found).splitlines()
        written = (results / f"few_steps-{teacher}.md.inc").read_text().splitlines()
        assert rows
        assert written[-len(rows) :] == rows
