"""The benchmark of a step measures what it says: operations, the emulation's parts, and whole tables."""

import argparse
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """Scripts are no package: they find one another in their folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import released
    import shapes
    import step

    return {"released": released, "shapes": shapes, "step": step}


@pytest.mark.parametrize(("teacher", "operations"), [("maskgit", 2 * 46.9e9), ("meissonic", 17.5e12 / 12)])
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
