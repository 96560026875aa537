"""``dimo plugins new``: what it refuses, and that nothing is half-written or overwritten."""

import tomllib
from pathlib import Path

import pytest

from dimo_core.cli import main
from dimo_core.jobs import new_package
from dimo_core.jobs.new_package import EXAMPLES, Names

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["plugins", "new", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_it_says_what_comes_next(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "new", "divergence", "my-own"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "dimo-my-own holds a divergence that works. Now:",
        "  cd dimo-my-own",
        '  pip install -e ".[dev]"',
        "  dimo plugins divergence",
        "  dimo run --divergence my-own --divergence.order 0.3",
    ]
    assert (Path("dimo-my-own") / "src" / "dimo_my_own" / "py.typed").read_text() == ""


def test_a_folder_that_exists_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Path("dimo-mine").mkdir()
    assert "'dimo-mine' exists already, and nothing was written" in refused(capsys, "metric", "mine")
    assert [*Path("dimo-mine").iterdir()] == []
    Path("link").symlink_to("nowhere")
    assert "'link' exists already" in refused(capsys, "metric", "mine", "--out", "link")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("tracker", "mine"), "choose from 'teacher', 'divergence', 'sampler', 'metric', 'conditions', 'obj"),
        (("divergence", "jeffrey"), "the divergence 'jeffrey' is there already, of dimo "),
        (("divergence", "Mine"), "bad name 'Mine': use up to 24 lower case letters and digits, a letter fir"),
        (("divergence", "mine.x"), "bad name 'mine.x'"),
        (("divergence", "2d"), "bad name '2d'"),
        (("divergence", "x" * 25), "use up to 24 lower case letters"),
        (("divergence", "none"), "bad name 'none': the class 'None' would take the name of another"),
        (("sampler", "guidance"), "bad name 'guidance': the class 'Guidance' would take the name of another"),
        (("metric", "core"), "bad name 'core': the package 'dimo_core' would take the name of another"),
        (("metric", "mine", "--out", "s3://bucket/mine"), "--out is a folder on this machine"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...], text: str
) -> None:
    assert text in refused(capsys, *words)
    assert [*tmp_path.iterdir()] == []


def test_when_writing_fails_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Path.write_text

    def full(self: Path, *text: object, **how: object) -> int:
        if self.name == "py.typed":
            raise OSError(28, "No space left on device")
        return written(self, *text, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", full)
    assert main(["plugins", "new", "metric", "mine"]) == 1
    assert "cannot write 'dimo-mine' (" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []


def test_names_that_hold_the_old_name_are_put_in_once() -> None:
    old, new = Names("renyi"), Names("my-renyi")
    text = "dimo_renyi dimo-renyi RenyiStream renyi"
    assert new.put(text, old) == "dimo_my_renyi dimo-my-renyi MyRenyiStream my-renyi"


def test_the_wheel_holds_every_package() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    held = {f"examples/dimo-{name}": f"dimo_core/packages/{kind}" for kind, name in EXAMPLES.items()}
    assert held == wheel["force-include"]


def test_what_tools_leave_in_an_example_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = tmp_path / "example"
    for path in ("a.py", "__pycache__/a.pyc", ".mypy_cache/x", "dimo_x.egg-info/y", "dist/z.whl"):
        (example / path).parent.mkdir(parents=True, exist_ok=True)
        (example / path).write_text("")
    monkeypatch.setattr(new_package, "_example", lambda kind: example)
    made = new_package.new_package("metric", "mine")
    assert [path.name for path in made.iterdir()] == ["a.py"]


@pytest.mark.parametrize(
    ("kind", "what"), [("objective", "an objective"), ("conditions", "a source of conditions")]
)
def test_it_says_in_english_what_it_holds(capsys: pytest.CaptureFixture[str], kind: str, what: str) -> None:
    assert main(["plugins", "new", kind, "my-own"]) == 0
    assert capsys.readouterr().out.startswith(f"dimo-my-own holds {what} that works. Now:")
