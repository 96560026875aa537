"""``dimo compare`` and ``dimo evaluate`` on the embedded digits, and every way to use them wrongly."""

import json
from pathlib import Path

import pytest
from loguru import logger
from PIL import Image

from dimo_core.choice import Choice
from dimo_core.cli import main
from dimo_core.errors import UsageError
from dimo_core.evaluation.protocols import Protocol, digest
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import save_generator
from dimo_core.files.owner import owned
from dimo_core.jobs.locate import find_subject
from dimo_core.method.one_step import OneStep
from dimo_core.registry import Registry

EMBEDDED = Path(__file__).parents[3] / "teachers" / "dimo_maskgit" / "embedded"
FEW = ["--samples", "24", "--metrics", "fidelity", "digits", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    yield
    logger.remove()


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    """A generator folder; the generator is the teacher itself."""
    folder = Folder(str(tmp_path_factory.mktemp("run") / "generator"))
    teacher = Registry.discover({}).load("teacher", "maskgit")()
    options = {"name": "one_step", "r_init": 0.6, "sigma_init": 0.1}
    config = {"teacher": {"name": "maskgit"}, "generator": options}
    save_generator(folder, OneStep().build(teacher), teacher, config, {"step": 0})
    return folder.url


@pytest.fixture(scope="module")
def of_several_steps(tmp_path_factory):
    """Folders of generators with the option ``steps``, of three packages."""
    registry, found = Registry.discover({}), []
    teacher = registry.load("teacher", "maskgit")()
    for name in ("few_step", "imdm", "mixture"):
        folder = Folder(str(tmp_path_factory.mktemp("several") / name / "generator"))
        made = registry.load("generator", name)(steps=2).build(teacher)
        config = {"teacher": {"name": "maskgit"}, "generator": {"name": name}}
        save_generator(folder, made, teacher, config, {"step": 0})
        found.append(folder.url)
    return found


def results(folder):
    return json.loads((Path(folder) / "results.json").read_text())


def test_the_papers_table(generator, capsys):
    arguments = ["--sampling-steps", "2", "1", "--samplers", "maskgit", "theta-trapezoidal"]
    temperatures = ["--temperature", "0.5", "1"]
    command = ["compare", *arguments, "--generators", generator, *temperatures, *FEW, "--out", "out"]
    assert 0 == main(command)
    label = Path(generator).parent.name
    expected = [
        ("maskgit, 2 steps", 2),
        ("maskgit, 1 step", 1),
        ("theta-trapezoidal, 2 steps", 4),
        ("theta-trapezoidal, 1 step", 2),
        (f"{label}, T = 0.5", 1),
        (f"{label}, T = 1", 1),
        ("real data", 0),
    ]
    first = results("out")
    assert expected == [(row["name"], row["passes"]) for row in first["rows"]]
    assert {"fid", "is", "precision", "recall", "readable"} <= set(first["rows"][0]["metrics"])
    assert all(row["samples"] == 24 and row["seconds"] > 0 for row in first["rows"][:-1])
    ((key, protocol),) = first["protocols"].items()
    assert ("plan, changed", 24, [0.5, 1.0]) == (
        protocol["name"],
        protocol["samples"],
        protocol["temperatures"],
    )
    assert all(row["protocol"] == key for row in first["rows"])
    assert len(protocol["fingerprint"]) == 64
    assert "24 samples are few for 32 features" in first["notes"][0]
    page = Path("out/report.html").read_text()
    assert all(name in page for name, _ in expected)
    assert (page.count("<img"), page.count("base64,")) == (4, 4)
    assert "theta-trapezoidal, 1 step" in capsys.readouterr().out
    before = {path: path.read_bytes() for path in Path("out/rows").iterdir()}
    assert 0 == main(command)
    assert before == {path: path.read_bytes() for path in Path("out/rows").iterdir()}
    assert first["rows"] == results("out")["rows"]


def test_shards_of_the_command_join_to_the_same_numbers():
    command = ["compare", "--sampling-steps", "1", *FEW, "--batch-size", "7"]
    assert 0 == main([*command, "--out", "whole"])
    for shard in ("2/3", "1/3", "3/3"):
        assert 0 == main([*command, "--out", "parts", "--shard", shard])
        assert not Path("parts/results.json").exists()
    assert 0 == main([*command, "--out", "parts"])
    one, two = (results(folder)["rows"][0]["metrics"] for folder in ("whole", "parts"))
    assert one == two
    assert one["fid"] == pytest.approx(two["fid"], abs=1e-6)


def test_one_row_of_a_generator_its_pictures_and_a_teacher(generator):
    run = str(Path(generator).parent)
    assert 0 == main(["evaluate", run, *FEW, "--out", "g", "--keep-samples", "kept"])
    assert 0 == main(["evaluate", "kept", *FEW, "--out", "p"])
    assert 0 == main(
        ["evaluate", str(EMBEDDED), *FEW, "--out", "t", "--sampling-steps", "2", "--guidance", "2"]
    )
    generated, pictures, teacher = (results(folder)["rows"][0] for folder in "gpt")
    assert ("generator", "images", "teacher") == (generated["kind"], pictures["kind"], teacher["kind"])
    assert generated["metrics"]["fid"] == pytest.approx(pictures["metrics"]["fid"], rel=1e-9)
    assert "readable" not in pictures["metrics"]
    assert "metric 'digits' is left out: it needs conditions" in " ".join(results("p")["notes"])
    assert (4, "maskgit, 2 steps") == (teacher["passes"], teacher["name"])


def test_generators_are_judged_in_other_numbers_of_steps_than_they_were_trained_with(of_several_steps):
    few = of_several_steps[0]
    one = ["--samples", "24", "--metrics", "digits", "--device", "cpu"]
    assert 0 == main(["evaluate", few, *one, "--out", "own"])
    assert 0 == main(["evaluate", few, *one, "--out", "steps", "--steps", "1", "2", "20", "2"])
    own, rows = results("own")["rows"][0], results("steps")["rows"]
    expected = [("few_step, 1 step", 1, 1), ("few_step, 2 steps", 2, 2), ("few_step, 20 steps", 20, 16)]
    assert expected == [(row["name"], row["steps"], row["passes"]) for row in rows[:-1]]
    assert own["metrics"] == rows[1]["metrics"]
    assert own["metrics"] != rows[0]["metrics"]
    assert [1, 2, 20] == [row["drawn"]["steps"] for row in rows[:-1]]
    markdown = Path("steps/results.md").read_text()
    assert all(name in markdown for name, _, _ in expected)
    arguments = ["--generators-only", "--generator-steps", "4", "1", "--generators", *of_several_steps]
    assert 0 == main(["compare", *arguments, *one, "--out", "all"])
    assert [(f"{name}, {count}", passes) for name in ("few_step", "imdm", "mixture")
            for count, passes in (("4 steps", 4), ("1 step", 1))] == [
        (row["name"], row["passes"]) for row in results("all")["rows"][:-1]
    ]  # fmt: skip


def test_steps_that_cannot_be_taken_are_refused_before_anything_is_drawn(generator, of_several_steps, capsys):
    told = [
        (
            ["evaluate", generator, "--steps", "1", "2"],
            "2 steps are asked for, and a generator of the class OneStep",
        ),
        (["evaluate", of_several_steps[2], "--steps", "1", "200"], "200 steps of at least one token each"),
        (["evaluate", generator, "--steps", "0"], "invalid positive value: '0'"),
        (["compare", "--generator-steps", "2"], "--generator-steps is for generators, and none is compared"),
        (["sample", generator, "--steps", "3"], "it has no option 'steps'. Leave the number of steps out."),
    ]
    for command, text in told:
        assert 2 == main([*command, "--out", "no"])
        assert text in capsys.readouterr().err
        assert not Path("no", "rows").exists()
    assert 0 == main(["evaluate", generator, *FEW, "--steps", "1", "--out", "one"])
    assert 1 == results("one")["rows"][0]["passes"]


def test_a_generator_is_sampled_in_other_steps_and_says_its_passes(of_several_steps, capsys):
    for out, more in (("two", []), ("four", ["--steps", "4"])):
        assert 0 == main(["sample", of_several_steps[0], "-n", "3", "--out", out, "--device", "cpu", *more])
    assert "a sample takes 4 steps, 4 forward passes" in capsys.readouterr().err
    lines = (Path(out, "samples.jsonl").read_text().splitlines() for out in ("two", "four"))
    two, four = ([json.loads(line) for line in each] for each in lines)
    assert ([2] * 3, [4] * 3) == ([each["passes"] for each in two], [each["passes"] for each in four])
    assert [each["tokens"] for each in two] != [each["tokens"] for each in four]


def test_a_teacher_is_judged_in_several_numbers_of_steps():
    assert 0 == main(["evaluate", str(EMBEDDED), *FEW, "--out", "t", "--steps", "2", "1"])
    assert ["maskgit, 2 steps", "maskgit, 1 step"] == [row["name"] for row in results("t")["rows"][:-1]]


def test_results_are_merged_with_a_warning(capsys):
    for name in ("a", "both"):  # the log of a batch system is no hindrance
        Path(name).mkdir()
        Path(name, "slurm-1.out").write_text("log")
    for name, samples in (("a", "10"), ("b", "12")):
        few = ["--samples", samples, "--metrics", "digits", "--device", "cpu"]
        assert 0 == main(["compare", "--sampling-steps", "1", *few, "--out", name])
    assert 0 == main(["compare", "--merge", "a", "b/results.json", "--out", "both"])
    assert (
        "Numbers of different protocols do not compare; these rows differ in samples (10 | 12)"
        in " ".join(capsys.readouterr().out.split())
    )
    both = results("both")
    assert (["maskgit, 1 step (a)", "real data", "maskgit, 1 step (b/results.json)"], 2) == (
        [row["name"] for row in both["rows"]],
        len(both["protocols"]),
    )


def test_a_generator_of_another_teacher_is_refused(generator, tmp_path, capsys):
    card = Path(generator) / "generator.yaml"
    other = tmp_path / "other"
    other.mkdir()
    (other / "generator.yaml").write_text(
        card.read_text().partition("\n")[2].replace("frozen:\n", "frozen:\n  x: " + "f" * 64 + "\n")
    )
    assert 2 == main(["compare", "--teacher", "maskgit", "--generators", str(other), *FEW, "--out", "out"])
    error = capsys.readouterr().err
    assert "was distilled from another teacher: the SHA-256 of its x is another" in error
    assert "--merge" in error
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["compare", "--samplers", "maskgi"], "unknown sampler 'maskgi'"),
        (["compare", "--samplers", "{name: halton, rol: 1}"], "rol"),
        (["compare", "--samplers", "[a]"], "expected a name, or {name: NAME, OPTION: VALUE}"),
        (["compare", "--metrics", "fidelty"], "Did you mean 'fidelity'?"),
        (["compare", "--generators", "nowhere"], "no generator in 'nowhere'"),
        (["compare", "--samplings", "v2"], "unknown sampling 'v2'"),
        (["compare", "--teacher", "maskgti"], "unknown teacher 'maskgti'"),
        (["compare", "--protocol", "papr-5k"], "Did you mean 'paper-5k'?"),
        (["compare", "--sampling-steps", "0"], "invalid positive value: '0'"),
        (["compare", "--intervals", "5"], "needs at least 10 resamples"),
        (["compare", "--intervals", "-1"], "needs at least 10 resamples"),
        (["compare", "--shard", "1"], "--shard is written I/N"),
        (["compare", "--shard", "3/2"], "shards count from 1"),
        (["compare", "--shard", "1/2", "--stream"], "give one"),
        (["compare", "--generators-only"], "nothing to compare"),
        (["compare", "--temperature", "3"], "--temperature is for generators, and none is compared"),
        (["compare", "--merge", "nowhere"], "holds no results"),
        (["compare", "--merge", "nowhere", "--samples", "3"], "--samples has no meaning beside it"),
        (["compare", "--dry-run"], "--dry-run is no option of this command"),
        (["compare", "--nonsense", "1"], "--nonsense: unknown option"),
        (["compare", "--device", "tpu"], "device 'tpu' is not available"),
        (["evaluate", "nowhere"], "nothing to evaluate in 'nowhere'"),
        (["evaluate"], "required: PATH"),
        (["evaluate", str(EMBEDDED), "--sampling", "v1.0", "--sampler", "halton"], "says sampler and steps"),
    ],
)
def test_wrong_usage_is_explained_before_anything_is_drawn(arguments, reason, capsys):
    assert main(arguments) in (1, 2)
    error = capsys.readouterr().err
    assert error.startswith(f"dimo {arguments[0]}: error: ")
    assert reason in error
    assert not Path("runs").exists()


def test_options_of_the_teacher_mean_nothing_for_a_generator(generator, capsys):
    assert 2 == main(["evaluate", generator, "--sampler", "halton"])
    assert "--sampler says how a teacher is sampled" in capsys.readouterr().err


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(monkeypatch, capsys):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("dimo_core.evaluation.comparison.Comparison.run", stop)
    assert 130 == main(["compare", *FEW, "--out", "out"])
    assert "The same command with --out out goes on" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["compare", "evaluate"])
def test_help_lists_the_options(command, capsys):
    assert 0 == main([command, "--help"])
    text = capsys.readouterr().out
    assert all(option in text for option in ("--protocol", "--intervals", "--keep-samples", "--shard"))


def test_a_teacher_folder_of_unknown_format_asks_for_its_teacher(tmp_path):
    (tmp_path / "teacher.yaml").write_text("format: dimo-foo/1\n")
    with pytest.raises(
        UsageError, match=r"is of the teacher 'foo'\. Name the one that reads it: --teacher NAME"
    ):
        find_subject(str(tmp_path), [], Registry.discover({}))


def test_a_pretraining_run_leads_to_its_teacher(tmp_path):
    (tmp_path / "teacher").symlink_to(EMBEDDED)
    subject = find_subject(str(tmp_path), [], Registry.discover({}))
    assert ("teacher", f"{tmp_path}/teacher") == (subject.kind, subject.teacher.checkpoint)


def test_missing_inception_weights_stop_the_command_before_anything_is_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    Path("inception.yaml").write_text("features: inception\nsamples: 24\n")
    command = ["compare", "--sampling-steps", "1", "--protocol", "inception.yaml", "--out", "out"]
    assert main(command) in (1, 2)
    error = capsys.readouterr().err
    assert "pt_inception-2015-12-05-6726825d.pth" in error
    assert "Metrics that need no features are chosen with --metrics" in error
    assert not Path("out").exists()


def test_a_metric_that_was_asked_for_by_name_must_have_its_files(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    asked = ["--metrics", "{name: clip-score, model: nowhere/clip}"]
    assert main(["compare", "--sampling-steps", "1", "--samples", "24", *asked, "--out", "out"]) in (1, 2)
    assert "nowhere/clip" in capsys.readouterr().err
    assert not Path("out").exists()


@pytest.mark.parametrize("change", [("12.png", 250), pytest.param(("3.png", 249), marks=pytest.mark.slow)])
def test_a_reference_whose_pictures_changed_is_another_protocol(tmp_path, change, capsys):
    def picture(name, shade):
        (tmp_path / "real" / "a").mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), shade).save(tmp_path / "real" / "a" / name)

    for i in range(12):
        picture(f"{i}.png", 20 * i)
    data = f"data: {{name: image-folder, path: {tmp_path / 'real'}, held_out: 0, size: 8, channels: 1}}"
    Path("mine.yaml").write_text(f"{data}\nsplit: train\nfloor_split: ''\nsamples: 12\nmetrics: [fidelity]\n")
    command = ["compare", "--sampling-steps", "1", "--protocol", "mine.yaml", "--out", "out"]
    assert main(command) == 0
    assert any("12 real samples are few for 32 features" in note for note in results("out")["notes"])
    assert main(command) == 0
    picture(*change)
    capsys.readouterr()
    assert main(command) == 2
    assert "they differ in reference.files" in capsys.readouterr().err


@pytest.mark.slow
def test_rows_that_were_measured_elsewhere_are_told(capsys):
    command = ["compare", "--samplers", "maskgit", *FEW, "--out", "out", "--sampling-steps", "1"]
    assert main(command) == 0
    assert not any("Seconds do not compare" in note for note in results("out")["notes"])
    rows = Folder("out/rows")
    for name in rows.names():
        text = json.dumps(rows.read_json(name)).replace('"cpu (', '"cuda:0 (Some, ')
        rows.write_json(name, json.loads(text))
    assert main([*command, "2"]) == 0
    (told,) = (note for note in results("out")["notes"] if "Seconds do not compare" in note)
    assert "cuda:0 (Some" in told


@pytest.mark.slow
def test_rows_say_how_they_were_drawn_and_a_merge_says_where_they_were_drawn_otherwise(generator):
    command = ["compare", "--sampling-steps", "1", "--generators", generator, *FEW]
    for scale in ("2", "3"):
        assert main([*command, "--guidance", scale, "--out", f"s{scale}"]) == 0
    teacher, drawn, _ = results("s2")["rows"]
    assert (2.0, 0.6) == (teacher["drawn"]["guidance"]["scale"], drawn["drawn"]["r_init"])
    assert 2.0 == results("s2")["cells"][0]["identity"]["guidance"]["scale"]
    assert main(["compare", "--merge", "s2", "s3", "--out", "both"]) == 0
    (told,) = (note for note in results("both")["notes"] if "drawn otherwise" in note)
    assert "'maskgit, 1 step' were drawn otherwise; they differ in guidance.scale (2.0 | 3.0)" in told


FID = ["--metrics", "{name: fidelity, numbers: [fid]}", "--device", "cpu"]


def test_intervals_are_of_the_mean_over_seeds():
    command = ["compare", "--sampling-steps", "1", *FID, "--samples", "80", "--intervals", "10"]
    assert main([*command, "--seeds", "0", "1", "--out", "two"]) == 0
    row, cells = results("two")["rows"][0], results("two")["cells"]
    low, high = row["intervals"]["fid"]
    assert low < row["metrics"]["fid"] < high
    widths = [cell["intervals"]["fid"][1] - cell["intervals"]["fid"][0] for cell in cells]
    assert high - low == pytest.approx(sum(widths) / 2 / 2**0.5)


def test_why_there_are_no_intervals_is_said_again_when_nothing_is_computed():
    command = [
        "compare",
        "--sampling-steps",
        "1",
        *FID,
        "--samples",
        "24",
        "--intervals",
        "10",
        "--out",
        "out",
    ]
    for _ in range(2):
        assert main(command) == 0
        notes = results("out")["notes"]
        assert "no intervals: half of 24 samples are too few for 32 features" in notes


def test_a_folder_with_other_things_is_left_alone(capsys):
    Path("mine").mkdir()
    Path("mine/report.html").write_text("my results")
    assert main(["compare", "--sampling-steps", "1", *FEW, "--out", "mine"]) == 2
    assert "holds other things than a comparison: report.html" in capsys.readouterr().err
    assert ["report.html"] == [path.name for path in Path("mine").iterdir()]


@pytest.mark.parametrize("place", ["out", "kept"])
def test_two_comparisons_do_not_share_a_folder(capsys, place):
    command = ["compare", "--sampling-steps", "1", *FEW, "--out", "out", "--keep-samples", "kept"]
    with owned(place):
        assert 2 == main(command)
        assert f"'{place}' is being written to by process" in capsys.readouterr().err
    assert [] == list(Path().iterdir())


def test_shards_work_beside_each_other_and_the_whole_waits_for_them(capsys):
    command = ["compare", "--sampling-steps", "1", *FEW, "--out", "out"]
    teacher = Registry.discover({}).load("teacher", "maskgit")()
    changes = {"samples": 24, "metrics": [Choice("fidelity"), Choice("digits")]}
    of = digest(Protocol.resolve(teacher.evaluation(), "plan", changes).as_dict())
    with owned("out", of, "1 of 2"):
        assert 0 == main([*command, "--shard", "2/2"])
        assert 2 == main([*command, "--shard", "1/2"])
        assert 2 == main(command)
        assert "'out' is being written to by process" in capsys.readouterr().err


def test_a_merge_waits_for_its_folder(capsys):
    assert 0 == main(["compare", "--sampling-steps", "1", *FEW, "--out", "one"])
    with owned("both"):
        assert 2 == main(["compare", "--merge", "one", "--out", "both"])
    assert "'both' is being written to by process" in capsys.readouterr().err


def test_a_row_without_any_number_is_an_error(tmp_path, capsys):
    (tmp_path / "large").mkdir()
    for i in range(3):
        Image.new("RGB", (64, 64), (i, 0, 0)).save(tmp_path / "large" / f"{i}.png")
    command = ["evaluate", str(tmp_path / "large"), "--teacher", "maskgit", "--metrics", "fidelity"]
    assert main([*command, "--out", "out"]) == 2
    assert "there are no numbers: " in (error := capsys.readouterr().err)
    assert "some features are missing" in error
    assert results("out")["rows"][1]["metrics"]["fid"] < 1
