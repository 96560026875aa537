"""The house style, as far as the syntax tree shows it; ruff and mypy check the rest."""

import ast
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
PACKAGES = [
    *(ROOT / folder for folder in FOLDERS),
    *(path.parent for path in sorted(ROOT.glob("examples/**/plugin.py"))),
]
SOURCES = [path for package in PACKAGES for path in sorted(package.rglob("*.py"))]
CLI = ROOT / "dimo_core" / "cli"
MODULE_LINES, FUNCTION_LINES, PARAMETERS = 300, 60, 8

WIDE_SIGNATURES: dict[str, str] = {
    "dimo_core/jobs/sample.py:sample_folder": "each is an option of `dimo sample`",
    "dimo_core/jobs/sample.py:sample_teacher": "each is an option of `dimo sample`",
    "teachers/dimo_meissonic/transformer.py:__init__": "diffusers reads the names of config.json from it",
}
"""``file:function`` of signatures with more parameters than that, and why."""

SWITCHES = {"add", "configure", "remove", "manual_seed", "seed", "use", "simplefilter", "filterwarnings"}
"""Methods that set up a logger, a seed or a library; none is called while a module is imported."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def breaches(rule: Callable[[ast.Module], Iterator[object]]) -> list[str]:
    """``file: what`` for all that a rule finds in the sources."""
    return [
        f"{path.relative_to(ROOT)}: {found}"
        for path in SOURCES
        for found in rule(ast.parse(path.read_text(), filename=str(path)))
    ]


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def parameters(function: Function) -> list[ast.arg]:
    a = function.args
    named = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    return [arg for arg in named if arg.arg not in ("self", "cls")]


def public(tree: ast.Module | ast.ClassDef) -> Iterator[ast.ClassDef | Function]:
    """Public classes and functions, and those within public classes."""
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node)


def wide(tree: ast.Module) -> Iterator[str]:
    return (f.name for f in functions(tree) if len(parameters(f)) > PARAMETERS)


def long(tree: ast.Module) -> Iterator[tuple[str, int]]:
    lengths = ((f.name, (f.end_lineno or f.lineno) - f.lineno + 1) for f in functions(tree))
    return ((name, length) for name, length in lengths if length > FUNCTION_LINES)


def undocumented(tree: ast.Module) -> Iterator[str]:
    if not ast.get_docstring(tree):
        yield "the module"
    yield from (node.name for node in public(tree) if not ast.get_docstring(node))


def unannotated(tree: ast.Module) -> Iterator[str]:
    for f in functions(tree):
        yield from (f"{f.name}({arg.arg})" for arg in parameters(f) if arg.annotation is None)
        if f.returns is None:
            yield f"{f.name} returns"


def postponed(tree: ast.Module) -> Iterator[int]:
    imports = (node for node in tree.body if isinstance(node, ast.ImportFrom))
    return (node.lineno for node in imports if node.module == "__future__")


def prints(tree: ast.Module) -> Iterator[int]:
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return (call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print")


def configures(tree: ast.Module) -> Iterator[int]:
    calls = (node.value for node in tree.body if isinstance(node, ast.Expr))
    methods = (call for call in calls if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute))
    return (call.lineno for call in methods if ast.unparse(call.func).rpartition(".")[2] in SWITCHES)


def test_there_are_sources_to_look_at() -> None:
    assert {path.parent.name for path in SOURCES} >= {package.name for package in PACKAGES}


def test_modules_are_short() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: length for name, length in lengths.items() if length > MODULE_LINES} == {}


def test_functions_are_short() -> None:
    assert breaches(long) == []


def test_functions_have_few_parameters_and_every_exception_is_needed() -> None:
    assert sorted(breach.replace(": ", ":") for breach in breaches(wide)) == sorted(WIDE_SIGNATURES)


def test_everything_public_has_a_docstring() -> None:
    assert breaches(undocumented) == []


def test_every_signature_is_annotated() -> None:
    assert breaches(unannotated) == []


def test_annotations_are_evaluated_at_import() -> None:
    assert breaches(postponed) == []


def test_only_the_command_line_prints() -> None:
    assert [breach for breach in breaches(prints) if not (ROOT / breach).is_relative_to(CLI)] == []


def test_nothing_is_configured_at_import() -> None:
    assert breaches(configures) == []


def test_no_module_is_a_drawer_for_everything() -> None:
    drawers = {"utils", "util", "helpers", "misc", "common"}
    assert [path for path in SOURCES if path.stem in drawers] == []
