"""The memory that --dry-run foretells, against the allocator's own account of a real step."""

import gc
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from dimo_core.config.distil import Job, resolve_job
from dimo_core.data.feeds import ConditionFeed
from dimo_core.engine.loop import Engine
from dimo_core.errors import UsageError
from dimo_core.files.folder import Folder
from dimo_core.jobs.dry_run import plan_memory
from dimo_maskgit.codebook import PatchCodebook
from dimo_maskgit.teacher import MaskGit
from dimo_maskgit.transformer import Architecture, MaskTransformer

CPU = torch.device("cpu")


def measured_peak(job: Job, folder: Path) -> int:
    """Bytes alive at most while the models are built and two steps are taken, from the profiler's records."""
    gc.collect()  # what is freed within, and was there before, the profiler would count
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


SMALL = Architecture(width=192, depth=2, heads=4, mlp=768, dropout=0.1, grid=8, codes=128, classes=10)
"""Large enough that what is counted outweighs the buffers of the libraries."""

HALF: dict[str, Any] = {"train": {"precision": "bf16"}}
FROZEN: dict[str, Any] = {
    "train": {"precision": "bf16", "frozen_dtype": "bf16"},
    "eval": {"precision": "bf16"},
}
LORA: dict[str, Any] = {"generator": "lora", "auxiliary": "lora"}
OFF: dict[str, Any] = {"objective": {"generator": {"ema": 0.0}}}

PLANNED: dict[str, tuple[str, bool, dict[str, Any]]] = {
    "whole networks": ("fast", False, {}),
    "with dropout, and a pass for each": ("paper", False, {}),
    "checkpointing": ("fast", True, {}),
    "in half precision": ("fast", False, HALF),
    "in half precision, with dropout": ("paper", False, HALF),
    "checkpointing in half precision": ("paper", True, HALF),
    "a teacher in half precision": ("paper", False, FROZEN),
    "no average": ("fast", True, OFF),
    "adapters": ("fast", False, LORA),
    "adapters, checkpointing": ("fast", True, LORA),
    "adapters in half precision": ("fast", False, LORA | HALF),
    "adapters on a base in half precision": ("fast", False, LORA | FROZEN),
    "all of it": ("paper", True, LORA | FROZEN | OFF),
}
"""Preset, checkpointing and options, by what is planned."""

FEW = (
    "checkpointing",
    "in half precision, with dropout",
    "adapters on a base in half precision",
    "no average",
)
"""Those that are measured without ``-m slow``, too."""


def planned(preset: str, again: bool, options: dict[str, Any], folder: Path) -> Job:
    """A run on the CPU, of a teacher with random weights."""
    torch.manual_seed(0)
    network, tokenizer = MaskTransformer(SMALL, SMALL.codes), PatchCodebook(torch.zeros(128, 12), 3, 2, 8)
    card = {
        "network": attrs.asdict(SMALL),
        "tokenizer": tokenizer.spec(),
        "classes": [str(i) for i in range(SMALL.classes)],
        "recipes": "imagenet",
        "evaluation": None,
    }
    teacher = MaskGit._assembled(card, network, tokenizer)
    vars(teacher)["gradient_checkpointing"] = again
    given = {"teacher": teacher, "out": str(folder), "device": "cpu", **options}
    train = {"batch_size": 8, "precision": "fp32", **options.get("train", {})}
    return resolve_job({**given, "train": train}, preset=preset)


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=[pytest.mark.slow] * (what not in FEW)) for what in PLANNED]
)
def test_the_foretold_memory_is_within_a_tenth_of_the_measured_one(what: str, tmp_path: Path) -> None:
    job = planned(*PLANNED[what], tmp_path)
    plan = plan_memory(job)
    assert {} == dict(plan.host)
    assert plan.total == pytest.approx(measured_peak(job, tmp_path), rel=0.1)


def test_every_option_saves_what_it_is_for(tmp_path: Path) -> None:
    """Each of these plans is smaller than the one before, on an accelerator too."""
    far = {"objective": {"generator": {"ema_device": "cpu"}}}
    eighth = {"train": {**FROZEN["train"], "shards": 8}}
    steps: list[tuple[str, bool, dict[str, Any]]] = [
        ("fast", False, HALF),
        ("fast", True, HALF),
        ("fast", True, FROZEN),
        ("fast", True, FROZEN | far),
        ("fast", True, FROZEN | far | eighth),
    ]
    jobs = [attrs.evolve(planned(*step, tmp_path), device="cuda") for step in steps]
    plans = [plan_memory(job) for job in jobs]
    totals = [plan.total for plan in plans]
    assert sorted(totals, reverse=True) == totals
    assert 5 == len(set(totals))
    trained = 4 * plans[3].parameters["generator"][1]
    assert totals[2] - totals[3] == trained == plans[2].rows["averages"]
    assert {"averages": 2 * trained} == plans[3].host
    assert 8 == plans[4].processes
    assert plans[4].rows["Adam's moments"] == pytest.approx(plans[3].rows["Adam's moments"] / 8, rel=0.01)
    assert plan_memory(planned("fast", True, FROZEN | far, tmp_path)).host == {}


def test_eight_bits_for_each_moment_are_counted_without_their_library(tmp_path: Path) -> None:
    eight = {part: {"optimizer": "adamw-8bit"} for part in ("generator", "auxiliary")}
    few = plan_memory(planned("fast", True, {"objective": eight}, tmp_path)).rows
    many = plan_memory(planned("fast", True, {}, tmp_path)).rows
    assert few["Adam's moments"] == pytest.approx(many["Adam's moments"] / 4, rel=0.1)
    assert {k: v for k, v in few.items() if "Adam" not in k} == {
        k: v for k, v in many.items() if "Adam" not in k
    }


def test_shards_that_no_processes_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UsageError, match=r"train\.shards is 3, which does not divide the 4 processes"):
        plan_memory(planned("fast", True, {"train": {"shards": 3}}, tmp_path))
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UsageError, match="8 samples cannot be divided evenly among 3 processes"):
        plan_memory(planned("fast", True, {}, tmp_path))


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
