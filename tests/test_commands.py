"""Every `dimo ...` that a page, a help text or an error prints is read by the command it names."""

import ast
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from dimo_core.cli import COMMANDS, plugged
from dimo_core.cli.command import SHORT, Parser
from dimo_core.errors import DimoError
from dimo_core.hookspecs import KINDS
from dimo_core.jobs.new_package import EXAMPLES
from dimo_core.options import options_of
from dimo_core.registry import Registry

ROOT = Path(__file__).parents[1]
FOLDERS = ("dimo_core", "teachers", "divergences", "plugins")
SOURCES = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("README.md")]
REGISTRY = Registry.discover({})

OWN = {*EXAMPLES.values(), "lecam", "tabular", "coins", "bhattacharyya", "perimeter"}
"""Names that the packages of ``examples/`` and README's register."""

SECTIONS = {
    "train",
    "eval",
    "model",
    "preset",
    "sampling",
    "seed",
    "out",
    "device",
    "tokens",
    "temperature",
    *SHORT,
}
"""Options and groups of configurations that are no plugin's."""


LINE = r"(?:^|/| && |; )(dimo [a-z-][^\n]*)"
"""A command in a block; its program may be a path."""

UNSAID = re.compile(r"expected (one|at least one) argument|the following arguments are required|'[A-Z]+'")
"""What parsers say of commands of which prose says a part, or that have a placeholder for a value."""


class Parsed(BaseException):
    """The command line was read."""

    def __init__(self, prog: str, rest: Sequence[str]) -> None:
        super().__init__(prog)
        self.rest = rest


def in_text(text: str) -> Iterator[str]:
    """Commands in the blocks and the inline code of a page, or in the backticks of a message."""
    for language, block in re.findall(r"^```([^\n]*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if language in ("", "sh", "console"):
            yield from re.findall(LINE, block.replace("\\\n", " "), re.MULTILINE)
    bare = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"`(dimo [^`]+)`", " ".join(bare.split()))


def in_source(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from in_text(node.value)
        elif isinstance(node, ast.JoinedStr):
            parts = [p.value if isinstance(p, ast.Constant) else "NAME" for p in node.values]
            yield from in_text("".join(map(str, parts)))


@cache
def printed() -> Mapping[str, str]:
    """Each command, and where it is printed first."""
    found = dict[str, str]()
    for path in (*PAGES, *SOURCES):
        texts = in_text(path.read_text()) if path.suffix == ".md" else in_source(path)
        for text in texts:
            found.setdefault(text, str(path.relative_to(ROOT)))
    return found


def words(text: str) -> list[str]:
    """The words of a command, up to what a shell would do with its output."""
    split = shlex.split(re.sub(r"\.\.\.|…", "", text), comments=True)[1:]
    end = next((i for i, word in enumerate(split) if re.fullmatch(r"[|&;]+|\d?>.*", word)), len(split))
    return [word.strip(",;:[]") if word[:1] != "[" or word[1:2].isupper() else word for word in split[:end]]


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands stop when their words are read."""
    plain = Parser.parse_known_args

    def parse(self: Parser, args: Any = None, namespace: Any = None) -> Any:
        _, rest = plain(self, args, namespace)
        raise Parsed(self.prog, rest)

    monkeypatch.setattr(Parser, "parse_known_args", parse)
    monkeypatch.setattr(Parser, "parse_args", parse)


def wrong(text: str) -> str:
    """What is wrong with a command; nothing when it can be read."""
    given, others = words(text), REGISTRY.names("command")
    if not given or given[0] in ("COMMAND", "NAME", "KIND", "greet"):
        return ""
    name = given[0]
    if name.startswith("-"):
        return "" if name in ("--help", "--version") else f"dimo has no option {name}"
    if name not in (*COMMANDS, *others):
        return f"there is no command {name!r}"
    arguments = [word for word in given[1:] if word not in ("--help", "-h", "KIND")]
    try:
        if name in COMMANDS:
            module, _, function = COMMANDS[name][0].partition(":")
            getattr(import_module(f"dimo_core.cli.{module}"), function)(arguments)
        else:
            plugged.main(name, arguments)
    except Parsed as parsed:
        return "; ".join(filter(None, map(option_wrong, options(parsed.rest))))
    return "it ended before its words were read"


def options(rest: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The options that no parser knows, with their values."""
    for i, word in enumerate(rest):
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            following = rest[i + 1] if i + 1 < len(rest) and not rest[i + 1].startswith("--") else ""
            yield name.replace("-", "_"), value or following


def option_wrong(option: tuple[str, str]) -> str:
    """What is wrong with an option of a plugin or a section."""
    name, value = option
    section, _, key = name.partition(".")
    if section == "KIND" or not section:
        return ""
    if section in KINDS:
        if not key or key == "name":
            placeholder = re.fullmatch(r"[A-Z]+|", value) is not None
            return (
                "" if placeholder or value in {*REGISTRY.names(section), *OWN} else f"no {section} {value!r}"
            )
        return "" if key.isupper() or key in keys(section) else f"no {section} has an option {key!r}"
    return "" if section in SECTIONS else f"there is no option --{name}"


@cache
def keys(kind: str) -> frozenset[str]:
    """The options that plugins of a kind have, without the kind."""
    found = {"order", "texts", "noise", "heads", "distance"}  # of the examples
    for name in REGISTRY.names(kind):
        found |= {".".join(option.path) for option in options_of(REGISTRY.load(kind, name))}
    return frozenset(found)


def test_there_are_commands_to_look_at() -> None:
    assert len(printed()) > 100
    assert {"README.md", "dimo_core/registry.py"} <= set(printed().values())


@pytest.mark.usefixtures("stopped")
def test_every_command_that_is_printed_is_read_by_its_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIMO_TRACEBACK", "0")
    found = {}
    for text, place in printed().items():
        try:
            problem = wrong(text)
        except DimoError as error:
            problem = "" if UNSAID.search(str(error)) else str(error)
        if problem:
            found[f"{place}: {text}"] = problem
    assert found == {}


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("dimo distil", "there is no command 'distil'"),
        ("dimo run --divergense fkl", "there is no option --divergense"),
        ("dimo run --divergence jefrey", "no divergence 'jefrey'"),
        ("dimo run --divergence.gamma 1", "no divergence has an option 'gamma'"),
    ],
)
def test_a_command_that_cannot_run_is_found(text: str, problem: str) -> None:
    assert problem == wrong(text)
