"""What import-linter does not see: plugins named in strings, private names, and the weight of registering."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = [ROOT / folder for folder in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
EXAMPLES = [path.parent for path in sorted(ROOT.glob("examples/**/plugin.py"))]
CORE = "dimo_core"
PLUGINS = [package for package in [*PACKAGES, *EXAMPLES] if package.name != CORE]
NAMES = {package.name for package in [*PACKAGES, *EXAMPLES]}
HEAVY = {
    "torch",
    "numpy",
    "PIL",
    "matplotlib",
    "webdataset",
    "diffusers",
    "transformers",
    "torch_fidelity",
    "sklearn",
    "rich",
    "jinja2",
    "safetensors",
}
each_plugin = pytest.mark.parametrize("package", PLUGINS, ids=lambda package: package.name)


def sources(package: Path) -> list[Path]:
    return sorted(package.rglob("*.py"))


def imports(path: Path, package: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of every import, wherever it stands; name is empty for ``import module``."""
    home = [*path.relative_to(package.parent).with_suffix("").parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = home[: -node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((module, alias.name) for alias in node.names)


def strings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_definitions(package: Path) -> set[str]:
    """Private names that a package defines: functions, methods, classes, variables and attributes."""
    found: set[str] = set()
    for path in sources(package):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                    found.add(name)
                case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                    found.add(name)
    return {name for name in found if is_private(name)}


def named(package: Path, others: set[str]) -> list[tuple[str, str]]:
    """Where a package names one of ``others`` in a string that an importer would take."""
    target = re.compile(rf"({'|'.join(sorted(others))})(\.\w+)*(:\w+)?")
    return [
        (path.name, text) for path in sources(package) for text in strings(path) if target.fullmatch(text)
    ]


@pytest.mark.parametrize("package", [ROOT / CORE, *PLUGINS], ids=lambda package: package.name)
def test_a_package_names_no_other(package: Path) -> None:
    assert named(package, NAMES - {CORE, package.name}) == []


@each_plugin
def test_a_plugin_package_imports_public_names_of_the_core_only(package: Path) -> None:
    private = [
        (path.name, module, name)
        for path in sources(package)
        for module, name in imports(path, package)
        if module.split(".")[0] == CORE and any(map(is_private, [*module.split("."), name]))
    ]
    assert private == []


@cache
def private_of_the_core() -> frozenset[str]:
    return frozenset(private_definitions(ROOT / CORE))


@each_plugin
def test_a_plugin_package_touches_no_private_attribute_of_the_core(package: Path) -> None:
    foreign = private_of_the_core() - private_definitions(package)
    touched = [
        (path.name, node.lineno, node.attr)
        for path in sources(package)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in foreign
    ]
    assert touched == []


def registering_modules() -> Iterator[tuple[str, str]]:
    """Modules that entry points name, with the folders that their packages are imported from."""
    folders = os.pathsep.join(sorted({str(package.parent) for package in [*PACKAGES, *EXAMPLES]}))
    for project in [ROOT, *sorted(path.parent for path in ROOT.glob("examples/*/pyproject.toml"))]:
        points = tomllib.loads((project / "pyproject.toml").read_text())["project"]["entry-points"]["dimo"]
        for module in points.values():
            yield module, folders


@pytest.mark.parametrize(("module", "folders"), [*registering_modules()])
def test_registering_imports_nothing_heavy(module: str, folders: str) -> None:
    code = f"import json, sys, {module}; print(json.dumps([name.split('.')[0] for name in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": folders},
        capture_output=True,
        text=True,
        check=True,
    )
    assert HEAVY & set(json.loads(done.stdout)) == set()


def test_no_package_is_imported_by_the_name_of_its_folder() -> None:
    folders = {"teachers", "plugins", "divergences", "tests", "examples", "benchmarks", "docs"}
    for package in PACKAGES:
        for path in sources(package):
            assert {module.split(".")[0] for module, _ in imports(path, package)} & folders == set(), path


def test_every_package_is_typed_and_belongs_to_the_wheel() -> None:
    on_disk = {path.parent for path in ROOT.glob("*/**/__init__.py") if "examples" not in path.parts}
    top = {path for path in on_disk if path.parent not in on_disk and path.is_relative_to(ROOT)}
    top = {path for path in top if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)}
    assert set(PACKAGES) == top
    assert [package for package in PACKAGES if not (package / "py.typed").exists()] == []
