"""The memory that --dry-run foretells, against the allocator's own account of a real step."""

from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from dimo_core.config.distil import Job, resolve_job
from dimo_core.data.feeds import ConditionFeed
from dimo_core.engine.loop import Engine
from dimo_core.files.folder import Folder
from dimo_core.jobs.dry_run import plan_memory

CPU = torch.device("cpu")


def measured_peak(job: Job, folder: Path) -> int:
    """Bytes alive at most while the models are built and two steps are taken, from the profiler's records."""
    stream = job.conditions.open(job.teacher.conditioning, seed=0)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        engine = Engine(
            job.objective.build(job.ingredients()),
            {"conditions": ConditionFeed(stream=stream, teacher=job.teacher, device=CPU)},
            job.train,
            folder=Folder(str(folder)),
            seed=0,
            device=CPU,
        )
        for _ in range(2):
            for phase in engine.objective.phases():
                engine.run_phase(phase, engine.feeds["conditions"], 0, True)
            engine.step += 1
    events = profiled.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    alive = peak = 0
    for _, change in changes:
        alive += change
        peak = max(peak, alive)
    return peak


@pytest.mark.parametrize("preset", ["fast", "paper"])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_foretold_memory_is_within_a_fifth_of_the_measured_one(
    preset: str, scale: float, tmp_path: Path
) -> None:
    job = resolve_job(
        {"teacher": "maskgit", "guidance": {"name": "constant", "scale": scale}, "out": str(tmp_path)},
        preset=preset,
    )
    assert plan_memory(job).total == pytest.approx(measured_peak(job, tmp_path), rel=0.2)


def test_the_memory_of_adapters_is_foretold_too(tmp_path: Path) -> None:
    given = {"teacher": "maskgit", "generator": "lora", "auxiliary": "lora", "out": str(tmp_path)}
    job = resolve_job(given, preset="fast")
    assert plan_memory(job).total == pytest.approx(measured_peak(job, tmp_path), rel=0.2)


def test_memory_in_half_precision_is_foretold_too(tmp_path: Path) -> None:
    """On meta, where autocast does nothing."""
    given = {"teacher": "maskgit", "guidance": {"name": "constant", "scale": 2.0}, "out": str(tmp_path)}
    half, full = (
        plan_memory(resolve_job({**given, "train": {"precision": p}}, preset="fast")).total
        for p in ("bf16", "fp32")
    )
    job = resolve_job({**given, "train": {"precision": "bf16"}}, preset="fast")
    assert half == pytest.approx(measured_peak(job, tmp_path), rel=0.2)
    assert half < 0.9 * full


def test_rows_of_other_micro_batches_are_not_drawn(tmp_path: Path) -> None:
    """Two rows of 1024 cost what two of four do; the fullest moment holds draws of these two."""
    few, many = (
        plan_memory(resolve_job({"teacher": "maskgit", "out": str(tmp_path), "train": train}, preset="fast"))
        for train in ({"batch_size": 4, "accumulate": 2}, {"batch_size": 1024, "accumulate": 512})
    )
    assert dict(many.rows) == dict(few.rows)


def test_the_fullest_step_is_planned_whatever_the_seed(tmp_path: Path) -> None:
    """Every token is masked; so few rows could be drawn with hardly a mask."""
    train = {"batch_size": 2, "accumulate": 2}
    given = {"teacher": "maskgit", "out": str(tmp_path), "train": train}
    plans = [plan_memory(resolve_job({**given, "seed": seed}, preset="fast")) for seed in range(3)]
    assert len({plan.total for plan in plans}) == 1


def test_the_plan_counts_parameters_and_reads_no_weights(tmp_path: Path) -> None:
    job = resolve_job({"teacher": "maskgit", "out": str(tmp_path)})
    plan = plan_memory(job)
    assert {"teacher": (485380, 0), "generator": (485380, 485380), "auxiliary": (485380, 485380)} == dict(
        plan.parameters
    )
    assert "_weights" not in vars(job.teacher)
    assert [] == list(tmp_path.iterdir())
