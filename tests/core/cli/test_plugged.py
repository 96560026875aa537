"""A plugin's own command: its options, what it prints, and what is refused."""

from pathlib import Path

import pytest

from dimo_core.cli import main

PLUGIN = '''
import attrs
from dimo_core.command import Command
from dimo_core.errors import UsageError
from dimo_core.hookspecs import hookimpl


@hookimpl
def dimo_register(register):
    register("command", "greet", "greeting:Greet", summary="says hello")
    register("command", "run", "greeting:Greet", summary="would replace a command")


@attrs.frozen(kw_only=True)
class Greet(Command):
    """Says hello.

    Attributes:
        to_whom: Who is greeted.
        times: How often.
        loud: Whether loudly.
        among: Who else is there.
    """

    to_whom: str
    times: int = attrs.field(default=1, validator=attrs.validators.ge(1))
    loud: bool = False
    among: tuple[str, ...] | None = None

    def __attrs_post_init__(self) -> None:
        if self.loud and self.times > 2:
            raise ValueError("that is too loud")

    def run(self) -> str:
        if self.to_whom == "nobody":
            raise UsageError("there is nobody to greet")
        text = f"hello {self.to_whom}" + "!" * self.loud
        text += "" if self.among is None else f" among {len(self.among)}: {', '.join(self.among)}"
        return "\\n".join([text] * self.times)
'''


@pytest.fixture(autouse=True)
def greeting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "greeting.py").write_text(PLUGIN)
    metadata = tmp_path / "greeting-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[dimo]\ngreeting = greeting\n")
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_command_is_run_with_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["greet", "--to-whom", "the world", "--times=2", "--loud"]) == 0
    assert capsys.readouterr().out == "hello the world!\nhello the world!\n"


def test_its_help_says_what_its_options_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["greet", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "says hello. Of greeting 1.0." in out
    assert "--times TIMES How often. (int, default: 1)" in out
    assert "--to_whom TO_WHOM Who is greeted. (str, required)" in out


def test_it_is_listed_beside_those_of_dimo(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert "  greet       says hello\n" in out
    assert "would replace" not in out
    assert main(["greed"]) == 2
    assert "Did you mean 'greet'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--to-whom", "x", "--times", "many"], "--times: expected int, got 'many'"),
        (["--to-whom", "x", "--times", "0"], "--times: must be >= 1: 0"),
        (["--to-whom", "nobody"], "there is nobody to greet"),
        (["--whom", "x"], "unrecognized arguments: --whom x"),
        ([], "error: --to_whom: must be given"),
        (["--to-whom", "x", "--times", "3", "--loud"], "error: that is too loud"),
    ],
)
def test_mistakes_are_one_line_of_the_command(
    given: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["greet", *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dimo greet: error: ")
    assert says in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["one"], " among 1: one"),
        (["one", "two"], " among 2: one, two"),
        (["[one, two]"], " among 2: one, two"),
        (["[]"], " among 0: "),
        (["null"], ""),
    ],
)
def test_a_list_is_given_by_its_words(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["greet", "--to-whom", "all", "--among", *words]) == 0
    assert capsys.readouterr().out == f"hello all{said}\n"
