"""The command line: what reaches a run, what is printed, and how each failure ends."""

import json
import re
from pathlib import Path

import pytest
import yaml
from loguru import logger

from dimo_core.cli import COMMANDS, main
from dimo_core.cli.command import log_from
from dimo_core.config.distil import DEFAULTS
from dimo_core.errors import CheckpointError, DimoError, Interrupted
from dimo_core.options import options_of
from dimo_core.registry import Registry

TOY = ["run", "--teacher", "toy"]

pytestmark = pytest.mark.usefixtures("toys")


@pytest.fixture
def started(monkeypatch):
    """Calls of the functions that the commands hand over to, which do nothing here."""
    calls = []

    def recorder(name, result=None):
        def record(*args, **kwargs):
            calls.append((name, args, kwargs))
            return result

        return record

    monkeypatch.setattr("dimo_core.jobs.distil.run", recorder("run"))
    monkeypatch.setattr("dimo_core.jobs.dry_run.dry_run", recorder("dry_run"))
    monkeypatch.setattr("dimo_core.jobs.pretrain.pretrain", recorder("pretrain"))
    monkeypatch.setattr("dimo_core.jobs.sample.sample_folder", recorder("sample", ["drawn/samples.jsonl"]))
    return calls


def lines_of(error: str) -> list[str]:
    return error.splitlines()


def test_a_job_reaches_the_run(started):
    assert 0 == main(
        [*TOY, "--beta", "-1e-3", "--steps=7", "--batch-size", "4", "--teacher.shape.corners", "5"]
    )
    ((name, (job,), options),) = started
    assert ("run", False, "tilted") == (name, options["resume"], job.config["divergence"]["name"])
    assert (-1e-3, 7, 4, 5) == (
        job.divergence.beta,
        job.train.steps,
        job.train.batch_size,
        job.teacher.shape.corners,
    )


def test_a_boolean_needs_no_value(started):
    assert 0 == main([*TOY, "--train.compile", "--seed", "1"])
    assert started[0][1][0].train.compile


def test_later_options_and_later_files_win(started):
    Path("a.yaml").write_text("{teacher: toy, seed: 1, train: {steps: 1, log_every: 1}}")
    Path("b.yaml").write_text("{seed: 2, train: {steps: 2}}")
    assert 0 == main(["run", "--config", "a.yaml", "--config=b.yaml", "--steps", "3", "--steps", "4"])
    job = started[0][1][0]
    assert (2, 4, 1) == (job.seed, job.train.steps, job.train.log_every)


@pytest.mark.parametrize("spelling", ["--dry-run", "--dry_run"])
def test_a_dry_run_starts_nothing(started, spelling):
    assert 0 == main([*TOY, spelling])
    assert ["dry_run"] == [name for name, _, _ in started]


def test_the_printed_configuration_repeats_itself_byte_for_byte(started, capsys):
    assert 0 == main([*TOY, "--preset", "paper", "--beta", "0.1", "--print_config"])
    first = capsys.readouterr().out
    Path("again.yaml").write_text(first)
    assert 0 == main(["run", "--config", "again.yaml", "--print-config"])
    assert first == capsys.readouterr().out
    assert [] == started
    assert ("paper", 0.1, None) == (
        yaml.safe_load(first)["preset"],
        yaml.safe_load(first)["divergence"]["beta"],
        yaml.safe_load(first)["teacher"]["rate"],
    )


def test_the_schema_describes_the_options_of_the_chosen_plugins(started, capsys):
    assert 0 == main([*TOY, "--preset", "paper", "--seed", "3", "--resume", "nowhere", "--print_schema"])
    sections = json.loads(capsys.readouterr().out)["properties"]
    name, whole = sections["teacher"]["anyOf"]
    assert ("toy", True) == (name["default"], "picky" in name["enum"])
    toy = whole["properties"]
    assert {"type": "integer", "description": "Number of layers.", "default": 9} == toy["depth"]
    assert ["red", "blue"] == toy["shape"]["properties"]["colour"]["enum"]
    assert ([8, 8], "array") == (toy["widths"]["default"], toy["widths"]["type"])
    assert {"name"} == {*sections["tracker"]["anyOf"][1]["properties"]} - {"$schema"}
    assert (3, "paper") == (sections["seed"]["default"], sections["preset"]["default"])
    assert not sections["train"]["additionalProperties"]
    assert [] == started


def test_the_schema_asks_for_required_options_and_mistakes_come_first(capsys):
    assert 0 == main(["run", "--teacher", "picky", "--print-schema"])
    picky = json.loads(capsys.readouterr().out)["properties"]["teacher"]["anyOf"][1]
    assert ["file"] == picky["required"]
    assert 2 == main([*TOY, "--seed", "x", "--print_schema"])
    assert "--seed: expected int, got 'x'" in capsys.readouterr().err


def test_a_run_is_resumed_where_it_was(started, capsys):
    assert 0 == main([*TOY, "--print_config"])
    Path("done").mkdir()
    Path("done/config.yaml").write_text(capsys.readouterr().out)
    assert 0 == main(["run", "--resume", "done", "--steps", "99", "--device", "cpu"])
    ((_, (job,), options),) = started
    assert ("done", 99, "cpu", True) == (job.out, job.train.steps, job.device, options["resume"])


def test_a_requeued_command_starts_its_run_or_goes_on(started, capsys):
    command = [*TOY, "--seed", "3", "--resume", "auto", "--out", "mine"]
    assert 0 == main(command)
    assert 0 == main([*command, "--print_config"])
    Path("mine").mkdir()
    Path("mine/slurm-1.out").write_text("")
    assert 0 == main(command)
    Path("mine/config.yaml").write_text(capsys.readouterr().out)
    assert 0 == main(command)
    assert [False, False, True] == [options["resume"] for _, _, options in started]
    assert [("mine", 3)] * 3 == [(job.out, job.seed) for _, (job,), _ in started]


def test_the_folder_of_a_requeued_command_may_come_from_a_file(started, capsys):
    Path("a.yaml").write_text("{teacher: toy, out: mine}")
    command = ["run", "--config", "a.yaml", "--resume", "auto"]
    assert 0 == main([*command, "--print_config"])
    Path("mine").mkdir()
    Path("mine/config.yaml").write_text(capsys.readouterr().out)
    assert 0 == main(command)
    assert started[0][2]["resume"]


@pytest.mark.parametrize("command", ["run", "pretrain"])
def test_a_requeued_command_has_to_name_its_folder(started, capsys, command):
    assert 2 == main([command, "--resume", "auto"])
    (line,) = lines_of(capsys.readouterr().err)
    assert "--resume auto continues the run in --out, or starts it there: give --out FOLDER as well" in line
    assert [] == started


@pytest.mark.parametrize("command", ["convert", "export", "compare --merge"])
def test_one_of_several_processes_of_a_launcher_is_refused(started, capsys, monkeypatch, command):
    monkeypatch.setenv("WORLD_SIZE", "2")
    name, *words = command.split()
    assert 2 == main([name, *words, *TOY[1:]])
    (line,) = lines_of(capsys.readouterr().err)
    assert line.startswith(f"dimo {name}: error: WORLD_SIZE is 2: a launcher such as torchrun started 2")
    assert [] == started
    assert 0 == main([name, "--help"])


@pytest.mark.parametrize("size", ["1", "", "many"])
def test_a_launcher_of_one_process_is_fine(started, monkeypatch, size):
    monkeypatch.setenv("WORLD_SIZE", size)
    assert 0 == main(TOY)
    assert 1 == len(started)


def test_the_environment_does_not_disturb_a_resumed_run(started, capsys, monkeypatch):
    assert 0 == main([*TOY, "--print_config"])
    Path("done").mkdir()
    Path("done/config.yaml").write_text(capsys.readouterr().out)
    monkeypatch.setenv("DIMO_SEED", "5")
    assert 0 == main(["run", "--resume", "done"])
    assert 0 == started[0][1][0].seed


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["run", "--teacher", "tooy"], "unknown teacher 'tooy'. Known: "),
        ([*TOY, "--divergence", "flat", "--beta", "0.2"], "--beta: divergence 'flat' has no option 'beta'"),
        ([*TOY, "--trian.steps", "4"], "--trian.steps: unknown option. Did you mean --train.steps?"),
        ([*TOY, "--stesp", "4"], "--stesp: unknown option. Did you mean --steps?"),
        (
            [*TOY, "--teacher.dept", "4"],
            "It takes: depth, rate, path, widths, names, shape.corners, shape.colour.",
        ),
        ([*TOY, "--teacher.depth", "four"], "--teacher.depth: expected int, got 'four'"),
        ([*TOY, "--teacher.depth", "0"], "--teacher.depth: must be > 0: 0"),
        ([*TOY, "--steps", "-1"], "--steps: must be >= 0: -1"),
        ([*TOY, "--beta"], "--beta: needs a value"),
        (["run", "--teacher"], "--teacher needs a value"),
        ([*TOY, "--config"], "--config: expected one argument"),
        ([*TOY, "--config", "none.yaml"], "'none.yaml': there is no such file. Give the path of a YAML file"),
        ([*TOY, "--preset", "slow"], "unknown preset 'slow'. Known: fast, paper."),
        ([*TOY, "--train", "4"], "--train: expected options (accumulate,"),
        ([*TOY, "--train", "4", "--train.steps", "3"], "'train' was given a value already"),
        ([*TOY, "stray"], "unexpected argument 'stray'"),
        ([*TOY, "-x"], "unexpected argument '-x'"),
        ([*TOY, "--dry-run=yes"], "--dry-run: ignored explicit argument 'yes'"),
        ([*TOY, "--log-level", "loud"], "unknown log level 'loud'"),
        (["run", "--resume", "nowhere"], "no run in 'nowhere'"),
        (["run", "--resume", "nowhere", "--dry-run"], "give one of them"),
        (["rnu"], "unknown command 'rnu'. Commands: run, "),
        (["plugins", "teachers"], "invalid choice: 'teachers'"),
        (["plugins", "--jsn"], "unrecognized arguments: --jsn"),
        (["sample"], "required: PATH"),
        (["sample", "x", "-n", "0"], "invalid positive value: '0'"),
        (["pretrain", "--teacher", "picky"], "teacher 'picky' cannot be pretrained"),
        (["pretrain", "--teacher", "toy", "--teacher.depth", "3"], "teacher 'toy' has no option 'depth'"),
        (["pretrain", "--dry-run"], "an option of `dimo run` only"),
    ],
)
def test_wrong_usage_ends_with_code_2_and_one_line(arguments, reason, started, capsys):
    assert 2 == main(arguments)
    output = capsys.readouterr()
    (line,) = lines_of(output.err)
    assert line.startswith(f"dimo {arguments[0]}: error: " if arguments[0] in COMMANDS else "dimo: error: ")
    assert reason in line
    assert ("", []) == (output.out, started)


def test_several_mistakes_are_several_lines(capsys):
    assert 2 == main([*TOY, "--seed", "x", "--guidance.scale", "-1", "--nonsense", "1"])
    found = lines_of(capsys.readouterr().err)
    assert 3 == len(found)
    assert all(line.startswith("dimo run: error: --") for line in found)


def fail_with(monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("dimo_core.jobs.distil.run", fail)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (CheckpointError("half written"), 1, "half written"),
        (Interrupted("saved at step 3"), 130, "saved at step 3"),
        (DimoError(), 1, "DimoError"),
    ],
)
def test_an_error_of_the_run_is_one_line_with_its_exit_code(monkeypatch, capsys, error, code, text):
    fail_with(monkeypatch, error)
    assert code == main(TOY)
    assert [f"dimo run: error: {text}"] == lines_of(capsys.readouterr().err)


def test_an_interrupted_command_ends_with_130(monkeypatch, capsys):
    fail_with(monkeypatch, KeyboardInterrupt())
    assert 130 == main(TOY)
    assert ["dimo run: interrupted"] == lines_of(capsys.readouterr().err)


def test_a_bug_is_short_on_the_screen_and_whole_in_a_file(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fail_with(monkeypatch, ZeroDivisionError("by zero"))
    assert 1 == main(TOY)
    first, second = lines_of(capsys.readouterr().err)
    assert "dimo run: error: unexpected ZeroDivisionError: by zero" == first
    (log,) = tmp_path.glob("dimo-error-*.log")
    assert str(log) in second
    assert "Traceback" in log.read_text()


def test_a_bug_of_a_plugin_is_told_by_its_function_and_distribution(capsys, tmp_path):
    (tmp_path / "out").mkdir()
    assert 1 == main([*TOY, "--device", "cpu", "--out", str(tmp_path / "out")])
    first = next(line for line in lines_of(capsys.readouterr().err) if "unexpected" in line)
    assert first.endswith("(in Coin.open of the plugin dimo-toy 1.0)")


def test_a_bug_shows_its_traceback_on_request(monkeypatch, capsys):
    monkeypatch.setenv("DIMO_TRACEBACK", "1")
    fail_with(monkeypatch, ZeroDivisionError("by zero"))
    assert 1 == main(TOY)
    assert "Traceback" in capsys.readouterr().err


def test_the_cause_of_an_error_is_shown_on_request(monkeypatch, capsys):
    monkeypatch.setenv("DIMO_TRACEBACK", "1")
    fail_with(monkeypatch, CheckpointError("half written"))
    assert 1 == main(TOY)
    found = lines_of(capsys.readouterr().err)
    assert ("Traceback (most recent call last):", "dimo run: error: half written") == (found[0], found[-1])


def test_help_shows_every_option_with_type_default_and_text(help_text):
    assert 0 == main([*TOY, "--preset", "paper", "--help"])
    text = help_text()
    registry = Registry.discover({})
    chosen = {"teacher": "toy", "divergence": "tilted", "conditions": "coin", "objective": "dimo"}
    for kind, name in chosen.items():
        for option in options_of(registry.load(kind, name), (kind,)):
            assert f"--{option.key} " in text
            assert " ".join(option.doc.split()) in text
    for shown in (
        "(list of int, default: [8, 8])",
        "(red | blue, default: red)",
        "(int, default: 9)",
        "(float | null, default: null)",
        "A rate between 0 % and 100 %.",
        "fast | paper (default: paper)",
        "--divergence.beta BETA, --beta BETA",
        "--resume FOLDER",
    ):
        assert shown in text


@pytest.mark.parametrize(
    ("command", "kinds", "shown"),
    [
        (
            "run",
            DEFAULTS,
            ("--eval.every EVERY", "(int, without a preset: 1000)", "--steps STEPS", "--out OUT"),
        ),
        ("pretrain", ("teacher", "data", "objective"), ("--tokens TOKENS", "(int, default: 1000)")),
        ("convert", ("teacher", "generator"), ("--out OUT",)),
    ],
)
def test_help_for_nothing_chosen_is_an_overview_of_plugins_and_other_options(command, kinds, shown, capsys):
    assert 0 == main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    registry = Registry.discover({})
    for kind in kinds:
        assert f"--{kind} NAME {' | '.join(registry.names(kind))} (default: " in text
        options = re.findall(rf"--{kind}\.(\w+) (\w+) ", text)
        assert [] == [name for name, value in options if value == name.upper()]
    assert all(part in text for part in (*shown, f"`dimo {command} --teacher maskgit --help`"))


def test_help_for_a_choice_of_the_environment_is_no_overview(monkeypatch, capsys):
    monkeypatch.setenv("DIMO_TEACHER", "toy")
    assert 0 == main(["run", "--help"])
    assert "--teacher.depth DEPTH" in capsys.readouterr().out


def test_help_shows_required_options_and_what_is_wrong(capsys):
    assert 0 == main(["run", "--teacher", "picky", "--seed", "x", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "(str, required)" in text
    assert "Wrong in this command line: --seed: expected int, got 'x'" in text


def test_help_for_an_unknown_plugin_says_which_there_are(capsys):
    assert 2 == main(["run", "--teacher", "tooy", "--help"])
    assert "unknown teacher 'tooy'" in capsys.readouterr().err


def test_the_teacher_class_gives_the_options_of_a_pretraining(started):
    arguments = [
        "--teacher",
        "toy",
        "--data",
        "dots",
        "--model.corners",
        "6",
        "--data.count",
        "9",
        "--steps",
        "2",
    ]
    assert 0 == main(["pretrain", *arguments])
    ((name, (job,), options),) = started
    assert ("pretrain", False, 6, 9, 2) == (
        name,
        options["resume"],
        job.model.corners,
        job.data.count,
        job.train.steps,
    )
    assert Registry.discover({}).load("teacher", "toy") is job.teacher_class
    assert "runs/pretrain-toy-dots-1" == job.out
    assert {"name": "toy"} == job.config["teacher"]


def test_a_pretraining_prints_a_configuration_that_repeats_it(capsys):
    assert 0 == main(["pretrain", "--teacher", "toy", "--data", "dots", "--print_config"])
    first = capsys.readouterr().out
    Path("again.yaml").write_text(first)
    assert 0 == main(["pretrain", "--config", "again.yaml", "--print_config"])
    assert first == capsys.readouterr().out


def test_pretrain_help_shows_the_model(capsys):
    assert 0 == main(["pretrain", "--teacher", "toy", "--data", "dots", "--help"])
    assert "--model.corners CORNERS" in capsys.readouterr().out


def test_sample_hands_over_what_was_asked_for(started, capsys):
    arguments = [
        "-n",
        "3",
        "--conditions",
        "even",
        "1",
        "--temperature",
        "0.5",
        "--steps",
        "6",
        "--seed",
        "4",
    ]
    arguments += ["--out", "o"]
    assert 0 == main(["sample", "folder", *arguments, "--device", "cpu", "--batch-size", "2"])
    ((_, args, options),) = started
    assert ("folder",) == args
    assert {
        "count": 3,
        "conditions": ["even", "1"],
        "temperature": 0.5,
        "steps": 6,
        "seed": 4,
        "out": "o",
        "device": "cpu",
        "precision": "fp32",
        "batch_size": 2,
    } == options
    assert "3 samples in drawn\n" == capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--help"], ["--version"], [], ["plugins"], ["plugins", "--json"]),
        *([command, "--help"] for command in COMMANDS),
    ],
    ids=" ".join,
)
def test_looking_around_imports_no_torch(python, arguments):
    code = (
        "import sys; from dimo_core.cli import main; import dimo_core; "
        f"assert main({arguments!r}) == 0; assert 'torch' not in sys.modules"
    )
    done = python("-c", code)
    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout


def test_python_m_dimo_core_is_the_command(python):
    done = python("-m", "dimo_core", "plugins", "nothing")
    assert (2, True) == (done.returncode, done.stderr.startswith("dimo plugins: error: "))


def test_a_reader_that_goes_away_is_no_error_message(python):
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-m', 'dimo_core', 'plugins'], stdout=subprocess.PIPE, "
        "stderr=subprocess.PIPE)\n"
        "child.stdout.close()\n"
        "print(child.stderr.read().decode(), end='')\n"
        "child.wait()\n"
    )
    assert "" == python("-c", code).stdout


def test_plugins_are_listed_with_origin_and_state(capsys):
    assert 0 == main(["plugins", "divergence"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["KIND", "NAME", "FROM", "STATE", "SUMMARY"] == rows[0]
    assert ["divergence", "flat", "dimo-toy", "1.0", "ok"] in rows
    assert {"divergence"} == {row[0] for row in rows[1:] if row[0].islower()}


def test_plugins_as_json_hold_every_offer(capsys):
    assert 0 == main(["plugins", "--json"])
    found = json.loads(capsys.readouterr().out)
    (toy,) = [row for row in found["plugins"] if row["name"] == "toy"]
    assert ("teacher", "dimo-toy", "toy", "dimo_toy:Toy", "a toy") == (
        toy["kind"],
        toy["dist"],
        toy["entry_point"],
        toy["target"],
        toy["summary"],
    )


def test_checked_plugins_that_cannot_be_used_end_with_code_1(capsys):
    assert 1 == main(["plugins", "metric", "--check", "--json"])
    states = {row["name"]: row["state"] for row in json.loads(capsys.readouterr().out)["plugins"]}
    assert {"broken"} == {states[name] for name in ("needy", "absent", "wrong", "abstract", "plain")}
    assert 1 == main(["plugins", "metric", "--check"])
    assert "pip install 'dimo-toy[needy]'" in capsys.readouterr().out


def test_broken_clashing_and_disabled_plugins_are_shown(tmp_path, monkeypatch, capsys):
    rival = "from dimo_core.hookspecs import hookimpl\n@hookimpl\ndef dimo_register(register):\n"
    rival += "    register('divergence', 'flat', 'somewhere:Flat')\n"
    for dist, source in {"rival": rival, "bad": "import nothing_like_it", "off": rival}.items():
        metadata = tmp_path / f"{dist}-2.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 2.0\n")
        (metadata / "entry_points.txt").write_text(f"[dimo]\n{dist} = {dist}_plugin_of_test_cli\n")
        (tmp_path / f"{dist}_plugin_of_test_cli.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("DIMO_DISABLE_PLUGINS", "off")
    assert 0 == main(["plugins", "divergence"])
    text = capsys.readouterr().out
    assert 2 == sum("clash" in line.split() for line in text.splitlines())
    assert (
        "CLASH     divergence 'flat' is claimed by dimo-toy 1.0 (entry point 'toy') and by rival 2.0" in text
    )
    assert (
        "BROKEN    bad 2.0 (entry point 'bad'): ModuleNotFoundError: No module named 'nothing_like_it'"
        in text
    )
    assert "DISABLED  off 2.0 (entry point 'off')" in text
    assert 1 == main([*TOY, "--divergence", "flat"])
    assert "is claimed by" in capsys.readouterr().err


def test_errors_and_log_lines_show_no_foreign_signs_no_secrets_and_no_end(capsys, monkeypatch):
    def fail(*_):
        raise CheckpointError("no \x1b[31m https://u:PW@h\x85x\nsecond " + "y" * 10_000_000)

    monkeypatch.setattr("dimo_core.cli.command.run", fail)
    assert 1 == main(["run"])
    first, second = capsys.readouterr().err.splitlines()
    assert r"dimo run: error: no \x1b[31m https://***@h x" == first
    assert second.startswith("dimo run: error: second yyy")
    assert len(second) < 2200
    log_from("info")
    logger.warning("class {}", "\x1b[2J\nhttps://h/?token=T")
    assert capsys.readouterr().err.endswith("WARNING class \\x1b[2J https://h/?token=***\n")


def test_the_traceback_of_an_unexpected_error_has_no_secrets(capsys, monkeypatch):
    def fail(*_):
        raise KeyError("https://u:PW@h \ud800")

    monkeypatch.setattr("dimo_core.cli.command.run", fail)
    assert 1 == main(["run"])
    told = capsys.readouterr().err
    path = re.search(r"traceback is in (\S+);", told)[1]
    assert "PW" not in told + Path(path).read_text()


@pytest.mark.parametrize(
    "argv", [[], *[[name] for name in COMMANDS], ["gym"], [*TOY, "--divergence", "tilted"]]
)
def test_help_fits_a_terminal_of_80_columns(argv, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert 0 == main([*argv, "--help"])
    assert [] == [line for line in capsys.readouterr().out.splitlines() if len(line) > 80]
