"""Every preset of both embedded teachers: it is planned, and takes a step."""

from pathlib import Path
from typing import Any

import pytest

from dimo_core.config.distil import Job, resolve_job
from dimo_core.jobs.distil import run
from dimo_core.jobs.dry_run import plan_memory
from dimo_core.jobs.sample import sample_teacher
from dimo_maskgit.recipes import RECIPES as MASKGIT
from dimo_maskgit.teacher import MaskGit
from dimo_meissonic.recipes import RECIPES as MEISSONIC
from dimo_meissonic.teacher import Meissonic

TEACHERS = {"maskgit": MaskGit, "meissonic": Meissonic}
PRESETS = [("maskgit", name) for name in MASKGIT["small"]] + [
    ("meissonic", name) for name in MEISSONIC["small"]
]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A few samples of each teacher, which the preset ``pairs`` learns."""
    found = {}
    for name, teacher in TEACHERS.items():
        found[name] = str(tmp_path_factory.mktemp(name) / "samples")
        sample_teacher(teacher(), count=4, out=found[name], device="cpu")
    return found


def job(teacher: str, preset: str, samples: str, out: Path) -> Job:
    options: dict[str, Any] = {
        "teacher": teacher,
        "train": {"steps": 1, "batch_size": 2, "sample_every": 0},
        "eval": {"enabled": False},
        "out": str(out),
        "device": "cpu",
    }
    if preset == "pairs":
        options["data"] = {"path": samples}
    if preset.startswith("di4c"):
        options["objective"] = {"latents": 2}
    return resolve_job(options, preset=preset)


QUICK = ("fast", "few-step", "sdtt")
"""Of the larger teacher, these are planned in the default suite."""


@pytest.mark.parametrize(
    ("teacher", "preset"),
    [
        pytest.param(*each, marks=() if "maskgit" in each or each[1] in QUICK else pytest.mark.slow)
        for each in PRESETS
    ],
)
def test_it_is_planned(teacher: str, preset: str, tmp_path: Path) -> None:
    assert plan_memory(job(teacher, preset, "not/read", tmp_path / "run")).total > 0


@pytest.mark.slow
@pytest.mark.parametrize(("teacher", "preset"), PRESETS)
def test_it_takes_a_step(teacher: str, preset: str, samples: dict[str, str], tmp_path: Path) -> None:
    assert run(job(teacher, preset, samples[teacher], tmp_path / "run")).generator.sampling()
