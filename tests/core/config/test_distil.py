"""A job from names and options: precedence, presets, round trips, and every mistake told in one message."""

import re
from pathlib import Path

import attrs
import pytest
import yaml

import dimo_core
from dimo_core.choice import Choice
from dimo_core.config.distil import DEFAULTS, DistilDraft, Job, job_from_config, resolve_job
from dimo_core.config.folders import resumed
from dimo_core.config.layers import OWN, from_environment, from_file, from_mapping
from dimo_core.errors import ConfigError, DimoError, PluginError, UnknownNameError
from dimo_core.guidance import Constant, Ramp
from dimo_core.method.dimo import Dimo
from dimo_core.objective import Optimisation
from dimo_core.registry import Registry
from dimo_core.settings import Evaluate, Train

TOYS = Path(__file__).parents[2] / "data" / "toy_site"


@pytest.fixture(autouse=True)
def _toys(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(TOYS))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def registry():
    return Registry.discover({})


def resolve(registry, preset=None, **overrides) -> Job:
    return resolve_job({"teacher": "toy", **overrides}, preset, registry)


def mistakes(registry, preset=None, **overrides) -> list[str]:
    with pytest.raises(DimoError) as caught:
        resolve(registry, preset, **overrides)
    return str(caught.value).splitlines()


def test_every_kind_of_a_job_has_a_default_name():
    kinds = [
        f.name
        for f in attrs.fields(Job)
        if f.name not in ("config", "train", "eval", "seed", "out", "device", "tokens", "data")
    ]
    assert kinds == [*DEFAULTS]


def test_the_configuration_has_one_key_for_each_field_of_a_job():
    assert {f.name for f in attrs.fields(Job)} - {"config"} == {*DistilDraft.keys} - {"preset"}


def test_the_first_recipe_is_the_default_and_is_recorded(registry):
    job = resolve(registry)
    assert "fast" == job.config["preset"]
    assert (10, Constant(scale=2.0), "coin") == (
        job.train.steps,
        job.guidance,
        job.config["conditions"]["name"],
    )


def test_a_recipe_may_set_options_of_its_own_teacher(registry):
    job = resolve(registry, "paper")
    assert (9, 0.5) == (job.teacher.depth, job.objective.generator.lr)
    assert Dimo().auxiliary == job.objective.auxiliary


def test_nested_options_keep_the_defaults_of_their_owner(registry):
    job = resolve(registry, teacher={"name": "toy", "shape": {"colour": "blue"}})
    assert {"corners": 4, "colour": "blue"} == job.config["teacher"]["shape"]


def test_the_teachers_evaluation_plan_chooses_the_sampler(registry):
    job = resolve(registry, teacher={"name": "toy", "depth": 7})
    assert {"name": "stepper", "stride": 7} == job.config["sampler"]


def test_the_configuration_rebuilds_the_job(registry):
    job = resolve(registry, "paper", out="somewhere", seed=3, guidance="ramp")
    again = job_from_config(yaml.safe_load(yaml.safe_dump(dict(job.config))), registry)
    assert job == again


def test_a_rebuilt_job_ignores_what_the_preset_says_now(registry):
    stored = {**resolve(registry).config, "preset": "a preset that is gone"}
    assert stored == dict(job_from_config(stored, registry).config)


def test_an_open_run_folder_is_the_next_free_one(registry):
    assert "runs/toy-tilted-1" == resolve(registry).out
    Path("runs/toy-tilted-4").mkdir(parents=True)
    Path("runs/toy-tilted-best").mkdir()
    job = resolve(registry)
    assert ("runs/toy-tilted-5", None) == (job.out, job.config["out"])


def test_a_named_run_folder_is_kept(registry):
    job = resolve(registry, out=Path("mine"))
    assert ("mine", "mine") == (job.out, job.config["out"])


@pytest.mark.parametrize(
    "divergence",
    [{"name": "tilted", "beta": 0.5}, Choice("tilted", {"beta": 0.5})],
    ids=["mapping", "choice"],
)
def test_a_plugin_may_be_a_mapping_or_a_choice(registry, divergence):
    assert {"name": "tilted", "beta": 0.5} == resolve(registry, divergence=divergence).config["divergence"]


def test_a_plugin_may_be_a_finished_object(registry):
    tilted = registry.load("divergence", "tilted")(beta=0.5)
    teacher = registry.load("teacher", "toy")(depth=5)
    job = resolve(registry, "paper", teacher=teacher, divergence=tilted, train=Train(steps=3))
    assert teacher is job.teacher
    assert tilted is job.divergence
    assert {"name": "tilted", "beta": 0.5} == job.config["divergence"]
    assert (5, "toy", 3) == (
        job.config["teacher"]["depth"],
        job.config["teacher"]["name"],
        job.config["train"]["steps"],
    )


def test_an_unregistered_object_is_recorded_by_class_and_cannot_be_read_back(registry):
    @attrs.frozen(kw_only=True)
    class Mine(Ramp):
        strength: int = 1

    job = resolve(registry, guidance=Mine(strength=2))
    recorded = job.config["guidance"]
    assert {"name": f"python:{Mine.__module__}.{Mine.__qualname__}", "scale": 1.0, "strength": 2} == recorded
    with pytest.raises(ConfigError, match=r"no plugin registers.*docs/plugins\.md"):
        job_from_config(job.config, registry)


def test_nested_options_may_be_objects(registry):
    job = resolve(registry, objective={"name": "dimo", "generator": Optimisation(lr=0.25)})
    assert 0.25 == job.objective.generator.lr


@pytest.mark.parametrize("wrong", [Constant, 3, object()], ids=["class", "number", "object"])
def test_something_else_than_a_plugin_is_refused(registry, wrong):
    (line,) = mistakes(registry, guidance=wrong)
    assert "guidance in the arguments" in line


def layers(tmp_path, *, environment=None, file=None, arguments=None):
    found = [from_environment(environment or {}, DistilDraft.keys)]
    if file is not None:
        path = tmp_path / "run.yaml"
        path.write_text(file)
        found.append(from_file(str(path)))
    return [*found, from_mapping(arguments or {}, "the arguments")]


def drafted(registry, tmp_path, **given):
    return DistilDraft(layers=layers(tmp_path, **given), registry=registry)


def test_arguments_beat_files_beat_environment_beats_preset_beats_default(registry, tmp_path):
    toy = {"DIMO_TEACHER": "toy"}
    steps = []
    for settings in (
        {"environment": {**toy, "DIMO_PRESET": "paper"}},
        {"environment": toy},
        {"environment": {**toy, "DIMO_TRAIN__STEPS": "20"}},
        {"environment": {**toy, "DIMO_TRAIN__STEPS": "20"}, "file": "train: {steps: 30}"},
        {
            "environment": {**toy, "DIMO_TRAIN__STEPS": "20"},
            "file": "train: {steps: 30}",
            "arguments": {"train": {"steps": 40}},
        },
    ):
        steps.append(drafted(registry, tmp_path, **settings).job().train.steps)
    assert [Train().steps, 10, 20, 30, 40] == steps


def test_the_environment_reaches_nested_options(registry, tmp_path):
    environment = {"DIMO_TEACHER__NAME": "toy", "DIMO_OBJECTIVE__GENERATOR__LR": "0.125", "DIMO_SEED": "4"}
    job = drafted(registry, tmp_path, environment=environment).job()
    assert (0.125, 4) == (job.objective.generator.lr, job.seed)


def test_an_unknown_option_in_the_environment_is_ignored(registry, tmp_path):
    environment = {"DIMO_TEACHER": "toy", "DIMO_TEACHER__DETH": "4", "DIMO_STRICT_PLUGINS": "1"}
    draft = drafted(registry, tmp_path, environment=environment)
    assert 2 == draft.job().teacher.depth
    told = "there is no option teacher.deth. Did you mean DIMO_TEACHER__DEPTH?"
    assert [f"DIMO_TEACHER__DETH is ignored: {told}"] == draft.notes


def test_a_variable_of_no_section_is_ignored_with_a_warning(registry, tmp_path):
    strange = {"DIMO_BANANA": "1", "DIMO_FOO": "1", "DIMO_FOO__BAR": "2", "DIMO_STEP": "3"}
    given = layers(tmp_path, environment={**strange, "DIMO_MODEL__DEPTH": "2", "PATH": "x"})
    draft = DistilDraft(layers=given, registry=registry, short={"steps": ("train", "steps")})
    assert [
        "DIMO_BANANA is ignored: there is no option banana.",
        "DIMO_FOO is ignored: there is no option foo.",
        "DIMO_FOO__BAR is ignored: there is no option foo.bar.",
        "DIMO_STEP is ignored: there is no option step. Did you mean DIMO_TRAIN__STEPS?",
    ] == draft.notes


def test_variables_that_dimo_reads_are_no_unknown_options():
    root = Path(dimo_core.__file__).parent.parent
    files = [file for top in ("dimo_core", "plugins", "teachers") for file in (root / top).rglob("*.py")]
    read = re.compile(r"""environ(?:ment)?(?:\.get\(|\.pop\(|\[)"DIMO_(\w+)"|VARIABLE = "DIMO_(\w+)\"""")
    names = {a or b for file in files for a, b in read.findall(file.read_text())}
    assert OWN == names


@pytest.mark.parametrize(
    ("key", "meant"), [("step", "train.steps"), ("sead", "seed"), ("lg_every", "log_every")]
)
def test_options_within_groups_are_suggested(registry, tmp_path, key, meant):
    draft = drafted(registry, tmp_path, file=f"teacher: toy\n{key}: 3")
    with pytest.raises(
        ConfigError, match=rf"{key} in .*: unknown option\. Did you mean (train\.)?{meant}\?$"
    ):
        draft.job()


def test_options_of_a_plugin_that_was_not_chosen_are_ignored(registry, tmp_path):
    file = "teacher: toy\nguidance: {name: constant, scale: 9}\ndivergence: {name: tilted, beta: 3}"
    draft = drafted(registry, tmp_path, file=file, arguments={"guidance": "ramp", "divergence": "flat"})
    job = draft.job()
    assert (Ramp(), {"name": "flat"}) == (job.guidance, job.config["divergence"])
    assert 2 == sum("do not apply" in note for note in draft.notes)


def test_names_may_stand_alone_in_a_file(registry, tmp_path):
    job = drafted(registry, tmp_path, file="teacher: toy\nguidance: ramp\ntrain:\n").job()
    assert Ramp() == job.guidance


def test_numbers_in_scientific_notation_are_numbers(registry, tmp_path):
    job = drafted(registry, tmp_path, file="{teacher: toy, objective: {generator: {lr: 1e-3}}}").job()
    assert 0.001 == job.objective.generator.lr


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: b: c", r"no valid YAML: line 1, column 5"),
        ("- 1\n- 2", "must hold a mapping"),
        ("seed: 1\nseed: 2", "line 2, column 1: the key 'seed' is there twice"),
        ("teacher: [{a: 1, a: 2}]", "line 1, column 18: the key 'a' is there twice"),
        ("teacher: &me [*me]", "no valid YAML: an alias stands for what holds it"),
        ("teacher: 3", "teacher in .*expected a name"),
        ("seed: 017", "line 1, column 7: 017 would be read as 15: write 15, or quotes"),
        ("seed: 1:30", "1:30 would be read as 90"),
        ("train: {steps: 1}\ntrain.steps: 2", r"train\.steps in .* is given a value twice"),
        ("seed: 3\nseed.a: 2", r"seed\.a in .* is given a value twice"),
        ("teacher: !!python/object/apply:os.system [echo]", "no valid YAML"),
    ],
)
def test_a_file_that_cannot_be_used_says_where(tmp_path, text, reason):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=reason) as caught:
        from_file(str(path))
    assert "run.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_dotted_key_of_a_file_is_a_nested_one(registry, tmp_path):
    plain = "train.steps: 5\ntrain: {batch_size: 4}\nteacher: toy\nteacher.widths: [1]\n"
    job = drafted(registry, tmp_path, file=f"{plain}objective.generator.lr: 0.25").job()
    assert (5, 4, [1], 0.25) == (
        job.train.steps,
        job.train.batch_size,
        [*job.teacher.widths],
        job.objective.generator.lr,
    )


def test_a_preset_that_is_no_name_is_one_mistake(registry, tmp_path):
    (line,) = (str(each) for each in drafted(registry, tmp_path, file="preset: [maskgit]").problems)
    assert "unknown preset \"['maskgit']\"" in line


def test_a_short_form_in_a_file_is_told_what_it_stands_for(registry, tmp_path):
    given = layers(tmp_path, file="steps: 5")
    draft = DistilDraft(layers=given, registry=registry, short={"steps": ("train", "steps")})
    (line,) = (str(problem) for problem in draft.problems)
    assert line.endswith("unknown option. Did you mean train.steps?")


def test_a_missing_file_is_named():
    with pytest.raises(ConfigError, match=r"'none\.yaml': there is no such file"):
        from_file("none.yaml")


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"trian": {"steps": 3}}, "trian in the arguments: unknown option. Did you mean train?"),
        ({"train": {"stesp": 3}}, "train.stesp in the arguments: unknown option. Did you mean train.steps?"),
        ({"train": 3}, "train in the arguments: expected options (accumulate,"),
        ({"train": Evaluate()}, "train in the arguments: expected Train or its options (accumulate,"),
        ({"train": {"steps": -1}}, "train.steps in the arguments: must be >= 0: -1"),
        (
            {"train": {"batch_size": 3, "accumulate": 2}},
            "train: batch_size 3 is not divisible by accumulate 2",
        ),
        (
            {"train": {"precision": "fp8"}},
            "train.precision in the arguments: expected fp32 | tf32 | bf16, got 'fp8'",
        ),
        ({"seed": "x"}, "seed in the arguments: expected int, got 'x'"),
        ({"seed": None}, "seed in the arguments: expected int, got null"),
        ({"seed": -1}, "seed in the arguments: must be >= 0: -1"),
        (
            {"teacher": {"name": "toy", "widths": [1, "b"]}},
            "expected list of int, got [1, 'b']; entry 2 is \"b\"",
        ),
        (
            {"teacher": {"name": "toy", "widths": [1, None]}},
            "got [1, None]; entry 2 is null: text that YAML takes for something else needs quotes",
        ),
        ({"teacher": {"name": "toy", "names": {"a": "b"}}}, "teacher.names in the arguments: expected dict"),
        (
            {"teacher": {"name": "toy", "shape": {"corners": 1}}},
            "teacher.shape.corners in the arguments: must be",
        ),
        ({"teacher": {"name": "toy", "shape": {"size": 1}}}, "teacher 'toy' has no option 'shape.size'"),
        ({"teacher": {"name": "toy", "shape": 4}}, "expected options (colour, corners), got 4"),
        (
            {"divergence": {"name": "flat", "beta": 1}},
            "divergence 'flat' has no option 'beta'. It takes: none.",
        ),
        ({"teacher": "picky"}, "teacher 'picky' needs --teacher.file: The file to read."),
        ({"preset": "slow"}, "unknown preset 'slow'. Known: fast, paper."),
        ({"teacher": "tooy"}, "unknown teacher 'tooy'"),
    ],
)
def test_a_mistake_is_told_in_one_line(registry, wrong, reason):
    (line,) = mistakes(registry, **wrong)
    assert reason in line


def test_an_option_that_others_take_names_them(registry):
    (line,) = mistakes(registry, divergence={"name": "flat", "beta": 1})
    takers = line.partition("A divergence that takes it: ")[2].partition(".")[0].split(", ")
    assert "tilted" in takers
    assert "flat" not in takers


def test_several_mistakes_are_told_at_once(registry):
    found = mistakes(
        registry, seed="x", sampler="steper", train={"steps": "many", "bath_size": 3}, guidance={"scale": -1}
    )
    assert 5 == len(found)
    assert all(
        any(word in line for line in found) for word in ("seed", "steper", "steps", "bath_size", "scale")
    )


def test_a_single_unknown_name_keeps_its_type(registry):
    with pytest.raises(UnknownNameError):
        resolve(registry, sampler="steper")


def test_a_wrong_recipe_is_a_fault_of_the_plugin(registry):
    with pytest.raises(PluginError, match=r"preset 'only' of teacher 'careless'.*no option 'strength'"):
        resolve(registry, teacher="careless", divergence="flat")


def test_a_recipe_for_another_plugin_than_the_chosen_one_is_ignored(registry):
    assert Ramp() == resolve(registry, guidance="ramp").guidance
    assert {"name": "flat"} == resolve(registry, divergence="flat").config["divergence"]


def test_a_recipe_section_without_name_is_meant_for_the_default_plugin(registry):
    job = resolve(registry, teacher="careless", guidance="ramp", divergence="flat")
    assert Ramp() == job.guidance


@pytest.fixture
def run_folder(registry, tmp_path):
    folder = tmp_path / "done"
    folder.mkdir()
    config = dict(resolve(registry, "paper", train={"steps": 100}).config)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return str(folder)


def resume(registry, folder, **given) -> Job:
    return resumed(DistilDraft, folder, [from_mapping(given, "the arguments")], registry)


def test_a_run_folder_gives_its_job_back(registry, run_folder):
    job = resume(registry, run_folder)
    assert (run_folder, 9, "paper") == (job.out, job.teacher.depth, job.config["preset"])


def test_a_resumed_run_may_change_device_and_grow(registry, run_folder):
    job = resume(registry, run_folder, device="meta", train={"steps": 200}, out=run_folder, seed=0)
    assert ("meta", 200, run_folder) == (job.device, job.train.steps, job.out)
    assert (200, None) == (job.config["train"]["steps"], job.config["out"])


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"train": {"steps": 50}}, "train.steps is 100"),
        ({"seed": 1}, "seed is 0 in the run"),
        ({"teacher": {"depth": 1}}, "teacher.depth is 9"),
        ({"guidance": "ramp"}, "guidance.name is 'constant'"),
        ({"out": "elsewhere"}, "out is null"),
        ({"preset": "fast"}, "preset is 'paper'"),
    ],
)
def test_a_resumed_run_refuses_other_options(registry, run_folder, given, reason):
    with pytest.raises(ConfigError, match=reason):
        resume(registry, run_folder, **given)


def test_only_a_run_folder_can_be_resumed(registry, tmp_path):
    with pytest.raises(ConfigError, match=r"it has no config\.yaml"):
        resume(registry, str(tmp_path))


def test_a_teacher_that_is_not_there_is_the_only_complaint():
    """Its recipe would have said which conditions the option is meant for."""
    wrong = {"teacher": {"name": "maskgit", "checkpoint": "nowhere"}, "conditions": {"url": "prompts.txt"}}
    with pytest.raises(DimoError, match=r"no teacher in '/.*/nowhere'") as caught:
        resolve_job(wrong)
    assert "url" not in str(caught.value).partition("Hugging Face")[0].replace("paths or URLs", "")
    assert 1 == len(str(caught.value).splitlines())


def test_a_configuration_has_no_secrets_and_a_resumed_run_asks_for_them(registry, tmp_path):
    url, given = "http://u:SECRET@host/w.pt", {"generator": {"init": "http://u:SECRET@host/w.pt"}}
    job = resolve(registry, **given)
    assert (url, "http://***@host/w.pt") == (job.generator.init, job.config["generator"]["init"])
    folder = tmp_path / "signed"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(job.config)))
    with pytest.raises(
        ConfigError, match=r"was left out when it was stored\. Give it again.*--generator\.init"
    ):
        resume(registry, str(folder))
    assert url == resume(registry, str(folder), **given).generator.init
    with pytest.raises(ConfigError, match=r"generator\.init is 'http://\*\*\*@host/w\.pt' in the run"):
        resume(registry, str(folder), generator={"init": "http://u:SECRET@host/other.pt"})


def test_the_first_mistakes_are_named_and_the_others_counted(registry, tmp_path):
    path = tmp_path / "many.yaml"
    path.write_text("\n".join(f"key{i}: 1" for i in range(50_000)))
    with pytest.raises(ConfigError) as caught:
        DistilDraft(layers=[from_file(str(path))], registry=registry).job()
    lines = str(caught.value).splitlines()
    assert (21, "and 49,980 mistakes more") == (len(lines), lines[-1])
