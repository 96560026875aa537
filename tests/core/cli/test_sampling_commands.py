"""``dimo sample --teacher``: presets, precedence, files, and what wrong names are answered with."""

import json
from pathlib import Path

import attrs
import pytest
import yaml

from dimo_core.cli import main
from dimo_core.config.distil import resolve_job
from dimo_core.config.sample import SampleDraft
from dimo_core.errors import ConfigError, UnknownNameError, UsageError
from dimo_core.guidance import Constant, Ramp
from dimo_core.registry import Registry
from dimo_core.sampler import TeacherSampling

TOY = ["sample", "--teacher", "toy"]

pytestmark = pytest.mark.usefixtures("toys")


@pytest.fixture
def started(monkeypatch):
    """Calls of ``sample_teacher``, which draws nothing here."""
    calls = []

    @attrs.frozen
    class Nothing:
        passes: int = 15

    def record(teacher, sampling, **options):
        calls.append((teacher, sampling, options))
        return Nothing()

    monkeypatch.setattr("dimo_core.jobs.sample.sample_teacher", record)
    return calls


def printed(capsys, *arguments):
    assert 0 == main([*TOY, *arguments, "--print_config"]), capsys.readouterr().err
    return yaml.safe_load(capsys.readouterr().out)


def test_the_first_sampling_is_used_and_everything_is_handed_over(started, capsys):
    options = ["-n", "3", "--conditions", "heads", "1", "--seed", "4", "--device", "cpu", "--batch-size", "2"]
    assert 0 == main([*TOY, "--teacher.depth=5", *options])
    ((teacher, sampling, options),) = started
    assert ("slow", 8, 5, Ramp(scale=3.0)) == (
        sampling.name,
        sampling.steps,
        sampling.sampler.stride,
        sampling.guidance,
    )
    assert 5 == teacher.depth
    assert {
        "count": 3,
        "conditions": ["heads", "1"],
        "seed": 4,
        "out": "runs/sample-toy-slow-1",
        "device": "cpu",
        "precision": "fp32",
        "batch_size": 2,
    } == options
    expected = "3 samples in runs/sample-toy-slow-1 (teacher, slow (8 steps), 15 forward passes each)\n"
    assert expected == capsys.readouterr().out


def test_explicit_options_override_the_sampling_and_its_name_tells(started):
    assert 0 == main([*TOY, "--sampling", "slow", "--steps", "3", "--guidance.scale", "2", "--out", "o"])
    ((_, sampling, options),) = started
    assert ("slow, changed", 3, 2, Ramp(scale=2.0), "o") == (
        sampling.name,
        sampling.steps,
        sampling.sampler.stride,
        sampling.guidance,
        options["out"],
    )


def test_repeating_what_the_sampling_says_changes_nothing(started):
    assert 0 == main([*TOY, "--steps", "8", "--guidance", "ramp"])
    assert "slow" == started[0][1].name


def test_another_plugin_takes_no_options_from_the_sampling(capsys):
    assert {"name": "constant", "scale": 1.0} == printed(capsys, "--guidance", "constant")["guidance"]


def test_precedence_is_command_line_then_files_then_environment_then_sampling(monkeypatch, capsys):
    assert 8 == printed(capsys)["steps"]
    monkeypatch.setenv("DIMO_STEPS", "9")
    monkeypatch.setenv("DIMO_GUIDANCE__SCALE", "7")
    assert 9 == printed(capsys)["steps"]
    Path("s.yaml").write_text("sampling: quick-1\nsteps: 10\n")
    assert ("quick-1", 10) == tuple(printed(capsys, "--config", "s.yaml")[k] for k in ("sampling", "steps"))
    last = printed(capsys, "--config", "s.yaml", "--steps", "11", "--sampling", "slow")
    assert ("slow", 11, {"name": "ramp", "scale": 7.0}) == (last["sampling"], last["steps"], last["guidance"])


def test_the_printed_configuration_prints_itself(capsys):
    first = printed(capsys, "--steps", "3", "--teacher.depth", "4")
    assert ["sampling", "teacher", "sampler", "guidance", "steps"] == list(first)
    Path("again.yaml").write_text(yaml.safe_dump(first))
    assert 0 == main(["sample", "--config", "again.yaml", "--print_config"])
    assert first == yaml.safe_load(capsys.readouterr().out)


def test_a_teacher_without_samplings_is_sampled_as_its_evaluation_says():
    registry = Registry.discover({})
    toy = registry.load("teacher", "toy")
    nameless = type("Nameless", (toy,), {"samplings": lambda self: {}})(depth=3)
    job = SampleDraft.resolve({"teacher": nameless}, registry)
    assert ("", 16, 3, Constant()) == (
        job.sampling.name,
        job.sampling.steps,
        job.sampling.sampler.stride,
        job.sampling.guidance,
    )


def test_a_teacher_without_any_suggestion_takes_the_defaults():
    job = SampleDraft.resolve({"teacher": "careless", "sampler": "stepper"})
    assert (16, Constant(), None) == (job.sampling.steps, job.sampling.guidance, job.config["sampling"])


@pytest.mark.parametrize("name", ["list", "slwo"])
def test_an_unknown_sampling_is_answered_with_all_of_them_and_their_sources(capsys, name):
    assert 2 == main([*TOY, "--sampling", name])
    lines = [line.removeprefix("dimo sample: error: ") for line in capsys.readouterr().err.splitlines()]
    hint = " Did you mean 'slow'?" if name == "slwo" else ""
    assert [
        f"unknown sampling {name!r}. Known: quick-1, slow.{hint} Samplings of teacher 'toy':",
        "slow: 8 steps. Toys, 1st volume: 5 of 6 children",
        "quick-1: 1 step. 100% new",
    ] == lines


def test_a_sampling_of_a_teacher_that_names_none_says_so():
    with pytest.raises(UsageError, match="teacher 'careless' names no samplings"):
        SampleDraft.resolve({"teacher": "careless", "sampling": "slow"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "runs/x", "--teacher", "toy"], "'runs/x' and a teacher: give either PATH"),
        (["sample", "--teacher", "toy", "-n", "3", "runs/x"], "'runs/x' and a teacher: give either PATH"),
        (["sample", "--teacher=toy", "runs/x"], "'runs/x' and a teacher: give either PATH"),
        (["sample"], "required: PATH, or --teacher NAME"),
        (["sample", "runs/x", "--sampling", "slow"], "--sampling says how a teacher is sampled"),
        (["sample", "runs/x", "--guidance.scale=2"], "--guidance says how a teacher is sampled"),
        ([*TOY, "--sampling"], "--sampling: needs a value"),
        ([*TOY, "--steps", "0"], "--steps: must be >= 1: 0"),
        ([*TOY, "--steps", "many"], "--steps: expected int"),
        ([*TOY, "--steppes", "4"], "Did you mean --steps?"),
        ([*TOY, "--sampler", "steper"], "Did you mean 'stepper'?"),
        ([*TOY, "--guidance", "rmap"], "Did you mean 'ramp'?"),
        ([*TOY, "--sampler.strid", "4"], "Did you mean --sampler.stride?"),
        ([*TOY, "--temperature", "2"], "sampler 'stepper' has no option 'temperature'"),
        ([*TOY, "--train.steps", "2"], "--train.steps: unknown option"),
        ([*TOY, "--dry-run"], "--dry-run is an option of `dimo run` only"),
        ([*TOY, "--resume", "x"], "--resume is an option of `dimo run` and `dimo pretrain` only"),
        ([*TOY, "-n", "0"], "invalid positive value: '0'"),
        (["sample", "--teacher", "tyo"], "Did you mean 'toy'?"),
    ],
)
def test_wrong_usage_is_one_line_and_starts_nothing(started, capsys, arguments, message):
    assert 2 == main(arguments)
    assert message in capsys.readouterr().err
    assert [] == started


def test_several_mistakes_are_told_together(capsys):
    assert 2 == main([*TOY, "--steps", "x", "--sampler.strid", "4"])
    assert 2 == len(capsys.readouterr().err.splitlines())


def test_help_shows_samplings_with_sources_and_every_option(help_text):
    assert 0 == main([*TOY, "--sampling", "quick-1", "--help"])
    text = help_text()
    for part in (
        "slow 8 steps. Toys, 1st volume: 5 of 6 children",
        "quick-1 1 step. 100% new",
        "--sampling SAMPLING",
        "default: quick-1)",
        "--steps STEPS",
        "default: 1)",
        "--teacher.depth DEPTH",
        "--sampler.stride STRIDE",
        "--guidance.scale SCALE",
        "-n N, --count N",
        "--batch-size B",
    ):
        assert part in text


def test_plain_help_points_to_teachers(capsys):
    assert 0 == main(["sample", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "PATH" in text
    assert "dimo sample --teacher NAME --help" in text


def test_temperature_is_short_for_the_samplers(capsys):
    assert 0 == main(["sample", "--teacher", "careless", "--temperature", "0.5", "--print_config"])
    assert 0.5 == yaml.safe_load(capsys.readouterr().out)["sampler"]["temperature"]


def test_unknown_samplings_of_an_evaluation_are_refused_before_the_run():
    registry = Registry.discover({})
    assert ("quick-1",) == resolve_job(
        {"teacher": "toy", "eval": {"samplings": ["quick-1"]}}, registry=registry
    ).eval.samplings
    with pytest.raises(UnknownNameError, match=r"unknown sampling 'quick'[^\n]*Did you mean 'quick-1'\?"):
        resolve_job({"teacher": "toy", "eval": {"samplings": ["quick"]}}, registry=registry)


def test_the_samplings_of_an_evaluation_are_a_list_on_the_command_line(capsys):
    arguments = ["run", "--teacher", "toy", "--eval.samplings", "[slow, quick-1]", "--print_config"]
    assert 0 == main(arguments), capsys.readouterr().err
    assert ["slow", "quick-1"] == yaml.safe_load(capsys.readouterr().out)["eval"]["samplings"]


def test_rows_are_step_counts_or_samplings_not_both():
    with pytest.raises(ConfigError, match="give one of them"):
        resolve_job({"teacher": "toy", "eval": {"samplings": ["slow"], "steps": [4]}})


def test_rows_of_no_step_are_refused_before_the_run():
    with pytest.raises(ConfigError, match=r"eval\.steps in the arguments: must be >= 1: 0"):
        resolve_job({"teacher": "toy", "eval": {"steps": [4, 0]}})


def test_a_title_names_sampling_and_steps():
    job = SampleDraft.resolve({"teacher": "toy", "sampling": "quick-1"})
    assert "teacher, quick-1 (1 step)" == job.sampling.title
    nameless = TeacherSampling(steps=2, sampler=job.sampling.sampler, guidance=Constant())
    assert "teacher, 2 steps" == nameless.title
    assert {
        "sampling": None,
        "steps": 2,
        "sampler": {"class": "Stepper", "stride": 1},
        "guidance": {"class": "Constant", "scale": 1.0},
    } == json.loads(json.dumps(nameless.as_dict()))
