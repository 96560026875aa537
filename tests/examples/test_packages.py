"""``dimo plugins new``, as authors use it: each package passes its own tests, its style and its types."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from dimo_core.jobs.new_package import EXAMPLES, LONGEST, Names, new_package
from dimo_core.registry import Registry

LONG = "a-name_of-the-longest-12"
PATHS = os.environ.get("PYTHONPATH", "")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A package of each kind, with different names."""
    folder, made = tmp_path_factory.mktemp("packages"), dict[str, Path]()
    for number, kind in enumerate(EXAMPLES):
        name = f"{LONG[:-1]}{number}" if number % 2 else f"q{number}"
        made[kind] = new_package(kind, name, str(folder / kind))
    return made


def run(command: Sequence[str], folder: Path, **environment: str) -> str:
    told = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, cwd=folder, env=told, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_names_are_as_long_as_they_may_be(packages: dict[str, Path]) -> None:
    assert len(LONG) == LONGEST
    assert (packages["divergence"] / "src" / "dimo_a_name_of_the_longest_11" / "plugin.py").exists()


def test_no_old_name_is_left(packages: dict[str, Path]) -> None:
    for kind, folder in packages.items():
        for path in (p for p in folder.rglob("*") if p.is_file()):
            assert EXAMPLES[kind] not in f"{path.relative_to(folder)} {path.read_text()}".lower()


def test_each_has_what_a_package_needs(packages: dict[str, Path]) -> None:
    for folder in packages.values():
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        (module,) = project["entry-points"]["dimo"].values()
        source = folder / "src" / module.partition(".")[0]
        assert {"__init__.py", "py.typed", "plugin.py"} <= {path.name for path in source.iterdir()}
        assert {"pytest", "ruff", "mypy"} <= {
            need.partition(">")[0] for need in project["optional-dependencies"]["dev"]
        }
        assert (folder / "README.md").exists()


@pytest.mark.parametrize("name", ["q", LONG])
def test_each_passes_its_own_lint_and_format_whatever_its_name(name: str, tmp_path: Path) -> None:
    for kind in EXAMPLES:
        new_package(kind, name, str(tmp_path / kind))
    run([sys.executable, "-m", "ruff", "check", "--no-cache", "."], tmp_path)
    run([sys.executable, "-m", "ruff", "format", "--check", "--no-cache", "."], tmp_path)


def test_each_passes_its_own_tests(packages: dict[str, Path], tmp_path: Path) -> None:
    """In one process, as torch is imported once; by their own options they are run in the slow test."""
    sources = [str(folder / "src") for folder in packages.values()]
    pytest_ = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
    tests = [str(folder / "tests") for folder in packages.values()]
    text = run([*pytest_, "-c", os.devnull, *tests], tmp_path, PYTHONPATH=os.pathsep.join([*sources, PATHS]))
    assert " passed" in text
    assert "failed" not in text


def test_each_is_found_by_its_name_and_loads(
    packages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, folder in packages.items():
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        metadata = tmp_path / f"{kind}-0.1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.1.0\n"
        )
        points = [f"{key} = {value}" for key, value in project["entry-points"]["dimo"].items()]
        (metadata / "entry_points.txt").write_text("\n".join(["[dimo]", *points]))
        monkeypatch.syspath_prepend(str(folder / "src"))
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = Registry.discover({"DIMO_STRICT_PLUGINS": "1"})
    for kind, folder in packages.items():
        (offer,) = [offer for offer in registry.offers(kind) if offer.dist != "dimo"]
        assert registry.load(kind, offer.name).__name__ == Names(offer.name).cls, folder


@pytest.mark.slow
def test_installed_as_their_readme_says_they_are_typed_listed_and_used(
    packages: dict[str, Path], tmp_path: Path
) -> None:
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation", "-q"]
    run([*pip, "--target", str(site), *map(str, packages.values())], work)
    path = os.pathsep.join([str(site), PATHS])
    for folder in packages.values():
        run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], folder, PYTHONPATH=path)
        mypy = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "mypy")]
        run(mypy, folder, MYPYPATH=PATHS)
    dimo = [sys.executable, "-m", "dimo_core"]
    listed = json.loads(run([*dimo, "plugins", "--check", "--json"], work, PYTHONPATH=path))["plugins"]
    mine = {plugin["kind"]: plugin["name"] for plugin in listed if plugin["dist"] != "dimo"}
    assert set(mine) == set(EXAMPLES)
    parts = ["teacher", "divergence", "sampler", "conditions", "objective"]
    chosen = [word for kind in parts for word in (f"--{kind}", mine[kind])]
    few = ["--train.steps", "2", "--train.batch_size", "4", "--eval.samples", "8", "--eval.steps", "[2]"]
    run([*dimo, "run", *chosen, *few, "--out", "run"], work, PYTHONPATH=path)
    run([*dimo, "evaluate", "run", "--metrics", mine["metric"], "--samples", "8"], work, PYTHONPATH=path)
