"""The named samplings: their sources' settings, golden counts, and the table in docs/cli.md."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from dimo_core.cli import main as command
from dimo_core.guidance import Constant, Guidance, Ramp
from dimo_core.jobs.results import RunRows
from dimo_core.jobs.sample import sample_teacher
from dimo_core.registry import Registry, built
from dimo_core.sampler import TeacherSampling
from dimo_core.settings import Evaluate
from dimo_core.suggestions import Sampling
from dimo_maskgit.samplings import SAMPLINGS
from dimo_maskgit.teacher import MaskGit
from dimo_samplers.maskgit import MaskGitSampler, tokens_per_step

ROOT = Path(__file__).parents[2]
COUNTS = json.loads((ROOT / "tests" / "data" / "schedules.json").read_text())["sampler_tokens_per_step"][
    "256"
]
CLI = (ROOT / "docs" / "cli.md").read_text()
IMAGENET, SMALL = SAMPLINGS["imagenet"], SAMPLINGS["small"]
ALL = [(scale, name) for scale, samplings in SAMPLINGS.items() for name in samplings]
REGISTRY = Registry.discover({})


def way(name: str, **changes: Any) -> TeacherSampling:
    return TeacherSampling.of(attrs.evolve(IMAGENET[name], **changes), REGISTRY, name)


def tokens(name: str) -> list[int]:
    sampler: Any = way(name).sampler
    return tokens_per_step(256, way(name).steps, sampler.schedule, sampler.counts)


@pytest.mark.parametrize(
    ("name", "steps", "w", "r_temp", "sm_temp"),
    [
        ("v1.0", 8, 3.0, 4.5, 1.0),
        ("v1.0-demo", 32, 9.0, 7.0, 1.3),
        ("dimo-sample", 8, 4.5, 7.0, 1.3),
        ("dimo-validation", 12, 3.0, 4.5, 1.0),
        ("di4c", 4, 3.0, 4.5, 1.0),
        ("v1.0-512", 15, 2.8, 7.0, 1.0),
    ],
)
def test_confidence_samplings_have_their_sources_settings(
    name: str, steps: int, w: float, r_temp: float, sm_temp: float
) -> None:
    """s_i = 1 + w i / (n - 1), and softmax(sm_temp * z): sm_temp multiplies."""
    sampling = way(name)
    sampler: Any = sampling.sampler
    assert (steps, "arccos", "confidence", r_temp) == (
        sampling.steps,
        sampler.schedule,
        sampler.order,
        sampler.gumbel,
    )
    z = torch.tensor([0.0, 1.0, -2.0])
    torch.testing.assert_close(z / sampler.temperature, z * sm_temp)
    for i in range(steps):
        scale = sampling.guidance.at(torch.ones(1), i / (steps - 1))
        torch.testing.assert_close(scale, torch.tensor([1 + w * i / (steps - 1)]))


@pytest.mark.parametrize("steps", [16, 8, 4, 2])
def test_the_papers_rows_are_in_random_order_at_constant_guidance(steps: int) -> None:
    sampling = way(f"paper-{steps}")
    assert steps == sampling.steps
    assert Constant(scale=2.5) == sampling.guidance
    expected = MaskGitSampler(schedule="arccos", counts="share", order="random", temperature=1 / 1.3)
    assert expected == sampling.sampler


def test_the_papers_two_steps_are_in_effect_one() -> None:
    assert [1, 255] == tokens("paper-2")


@pytest.mark.parametrize("name", ["v1.0", "dimo-sample", "dimo-validation", "paper-16", "paper-8", "paper-4"])
def test_shares_are_the_golden_counts(name: str) -> None:
    assert COUNTS["arccos"][str(way(name).steps)] == tokens(name)


def test_the_goldens_at_8_and_12_steps_are_those_of_the_specification() -> None:
    assert [1, 18, 26, 32, 38, 43, 48, 50] == tokens("v1.0")
    assert [1, 9, 13, 17, 19, 22, 24, 26, 28, 30, 32, 35] == tokens("dimo-validation")


def test_di4cs_counts_are_cumulative() -> None:
    assert [41, 44, 53, 118] == tokens("di4c")


def test_512_pixels_have_1024_tokens() -> None:
    sampler: Any = way("v1.0-512").sampler
    assert 1024 == sum(tokens_per_step(1024, 15, sampler.schedule, sampler.counts))


def test_v1_is_the_sampler_of_the_golden_trajectory() -> None:
    """``arccos4`` of tests/samplers: arccos, w 3, Gumbel 4.5, four steps."""
    expected = TeacherSampling(
        steps=4,
        sampler=MaskGitSampler(schedule="arccos", counts="share", gumbel=4.5),
        guidance=Ramp(scale=4.0),
        name="v1.0",
    )
    assert expected == way("v1.0", steps=4)


@pytest.mark.parametrize(("scale", "name"), ALL)
def test_every_sampling_can_be_built_and_tells_its_source(scale: str, name: str) -> None:
    sampling = SAMPLINGS[scale][name]
    TeacherSampling.of(sampling, REGISTRY, name)
    assert sampling.source


@pytest.mark.parametrize(
    ("name", "numbers"),
    [("v1.0", "FID 6.80, IS 214.0"), ("v1.0-512", "FID 7.26, IS 223.1"), ("paper-2", "FID 91.35")],
)
def test_reported_numbers_are_given(name: str, numbers: str) -> None:
    assert numbers in IMAGENET[name].source


def row(name: str, sampling: Sampling) -> str:
    """A line of the table in docs/cli.md, from the built plugins."""
    built_ = TeacherSampling.of(sampling, REGISTRY)
    sampler: Any = built_.sampler
    order = f"confidence, Gumbel {sampler.gumbel:g}" if sampler.order == "confidence" else "random"
    counts = f"{sampler.schedule}, {sampler.counts}"
    cells = [f"`{name}`", f"{sampling.steps}", order, counts, guidance_text(built_.guidance)]
    return f"| {' | '.join([*cells, f'{sampler.temperature:.4g}', sampling.source])} |"


def guidance_text(guidance: Guidance) -> str:
    assert isinstance(guidance, Ramp | Constant)
    if guidance.scale == 1:
        return "none"
    return f"1 to {guidance.scale:g}" if isinstance(guidance, Ramp) else f"{guidance.scale:g}"


@pytest.mark.parametrize("scale", SAMPLINGS)
def test_the_documentation_lists_exactly_the_samplings(scale: str) -> None:
    title = {"imagenet": "### Samplings of the ImageNet teacher", "small": "### Samplings of small teachers"}[
        scale
    ]
    section = CLI.partition(f"\n{title}\n")[2].partition("\n#")[0]
    listed = [line for line in section.splitlines() if line.startswith("| `")]
    assert [row(name, sampling) for name, sampling in SAMPLINGS[scale].items()] == listed


@pytest.mark.parametrize("line", re.findall(r"^dimo (sample --teacher .*)$", CLI, re.MULTILINE))
def test_commands_that_the_documentation_shows_are_accepted(
    line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command([*shlex.split(line), "--print_config"]) == 0, capsys.readouterr().err
    assert "sampling:" in capsys.readouterr().out


def test_the_embedded_teacher_has_the_small_samplings() -> None:
    assert SMALL == MaskGit().samplings()


def test_confidence_is_how_the_embedded_teacher_is_evaluated() -> None:
    plan = MaskGit().evaluation()
    assert plan is not None
    evaluated = TeacherSampling(
        steps=max(plan.steps),
        sampler=built(REGISTRY, "sampler", plan.sampler),
        guidance=built(REGISTRY, "guidance", plan.guidance),
    )
    assert evaluated == TeacherSampling.of(SMALL["confidence"], REGISTRY)


@pytest.mark.parametrize(("name", "passes"), [("confidence", 16), ("random-order", 16), ("v1.0", 15)])
def test_the_embedded_teacher_is_sampled_by_name(name: str, passes: int) -> None:
    drawn = sample_teacher(MaskGit(), name, count=4, device="cpu")
    assert passes == drawn.passes
    assert drawn.images is not None
    assert (4, 1, 8, 8) == tuple(drawn.images.shape)


def test_the_embedded_teacher_is_judged_by_name() -> None:
    teacher = MaskGit()
    plan = teacher.evaluation()
    assert plan is not None
    evaluator = RunRows.of(
        teacher,
        attrs.evolve(plan, metrics=(), features=None, data=None, floor_split=""),
        REGISTRY,
        conditions=built(REGISTRY, "conditions", plan.conditions),
        settings=Evaluate(samplings=("v1.0", "confidence"), samples=8),
        device=torch.device("cpu"),
    )
    rows = evaluator.table(None, teacher.network()).rows
    assert [("teacher, v1.0 (8 steps)", 15), ("teacher, confidence (16 steps)", 16)] == [
        (found.name, found.passes) for found in rows
    ]
