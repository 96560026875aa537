"""Whole steps off logged ones: the host waits for nothing, and the numbers are those of the CPU."""

from typing import Any

import attrs
import pytest
import torch

from dimo_core.config.distil import resolve_job
from dimo_core.data.feeds import ConditionFeed
from dimo_core.engine.loop import Engine
from dimo_core.files.folder import Folder

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
CLOSE = {"atol": 1e-7, "rtol": 1e-5}
"""Networks are in float64 but for norms of heads, which Meissonic has in fp32 always."""
PARTS: dict[str, dict[str, Any]] = {"full": {}, "lora": {"generator": "lora", "auxiliary": "lora"}}


def trained(teacher: str, preset: str, device: torch.device, paper: Any = None, **more: Any) -> Engine:
    """Three steps of an embedded job, in two micro-batches each; on the device the host waits for none."""
    given = {"teacher": teacher, "guidance": {"name": "constant", "scale": 2.0}, **more}
    train = {"batch_size": 4, "accumulate": 2, "steps": 10, "log_every": 100}
    job = resolve_job({**given, "train": train, "seed": 3}, preset=preset)
    job = attrs.evolve(job, teacher=job.teacher.on(device))
    objective = job.objective.build(job.ingredients())
    for module in (*objective.frozen().values(), *(part.module for part in objective.parts().values())):
        module.double()
    stream = job.conditions.open(job.teacher.conditioning, seed=3)
    feed = ConditionFeed(stream=stream, teacher=job.teacher, device=device)

    def engine() -> Engine:
        return Engine(
            objective,
            {"conditions": feed},
            job.train,
            folder=Folder("memory://unused"),
            seed=3,
            device=device,
        )

    if paper is None:
        made = engine()
        for _ in range(3):
            made.take_step()
        return made
    with paper.reading():
        getattr(job.teacher, "prompts", None)
        made = engine()
    with paper:
        job.teacher.null_condition(feed.read(10**6, 1).conditions)  # the tower's own look at its rows
    with paper.waiting_is_an_error():
        paper.kernels.clear()
        for _ in range(3):
            made.take_step()
    return made


@pytest.mark.parametrize("parts", ["full", pytest.param("lora", marks=pytest.mark.slow)])
@pytest.mark.parametrize("preset", ["paper", "fast"])
@pytest.mark.parametrize("teacher", ["maskgit", pytest.param("meissonic", marks=pytest.mark.slow)])
def test_a_step_waits_for_nothing_and_is_that_of_the_cpu(
    teacher: str, preset: str, parts: str, paper: Any
) -> None:
    there, here = (trained(teacher, preset, *where, **PARTS[parts]) for where in ((CUDA, paper), (CPU,)))
    for name, state in here.states.items():
        for key, expected in state.trained.items():
            torch.testing.assert_close(there.states[name].trained[key].host, expected, **CLOSE)
            assert CUDA == there.states[name].trained[key].device
        for key, expected in state.average.items():
            torch.testing.assert_close(there.states[name].average[key].host, expected, **CLOSE)
    averages = sum(bool(state.average) for state in there.states.values())
    assert 3 * averages == paper.kernels["aten._fused_sgd_"]
    groups = sum(bool(group["params"]) for s in there.states.values() for group in s.optimizer.param_groups)
    assert 3 * groups == paper.kernels["aten._fused_adamw_"]
