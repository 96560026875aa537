"""What a release needs agrees with the package: citation, changelog, container, forms for issues."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKER = (ROOT / "Dockerfile").read_text()


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["version"] == cited["version"]
    assert PROJECT["license"] == cited["license"]
    assert {"cff-version", "message", "title", "authors", "date-released"} <= {*cited}


def test_the_newest_section_of_the_changelog_is_of_this_version_or_to_come():
    sections = re.findall(r"^## (\S+)(?: \(([\d-]+)\))?", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = next(section for section in sections if section[0] != "Unreleased")
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (PROJECT["version"], str(cited["date-released"])) == released


def test_the_container_installs_extras_that_exist_and_copies_what_is_there():
    (extras,) = re.findall(r'ARG EXTRAS="([^"]*)"', DOCKER)
    assert {*extras.split(",")} <= {*PROJECT["optional-dependencies"]}
    (oldest,) = [requirement for requirement in PROJECT["dependencies"] if requirement.startswith("torch>")]
    assert f'"{oldest}"' in DOCKER
    (python,) = re.findall(r"ARG PYTHON=(\S+)", DOCKER)
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]
    for name in kept():
        assert (ROOT / name).exists(), name


def kept() -> list[str]:
    """Top-level names that the container's context holds."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" == lines[0]
    return [line[1:] for line in lines if line.startswith("!")]


@pytest.mark.slow
def test_the_context_of_the_container_is_enough_to_install(tmp_path):
    for name in kept():
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist")]
    done = subprocess.run([*build, str(tmp_path)], capture_output=True, text=True)
    assert 0 == done.returncode, done.stdout + done.stderr
    assert [*(tmp_path / "dist").glob("*.whl")]


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda p: p.stem
)
def test_forms_for_issues_are_whole(path):
    form = yaml.safe_load(path.read_text())
    if path.stem == "config":
        return
    assert {"name", "description", "body"} <= {*form}
    identifiers = [part.get("id") for part in form["body"]]
    assert len(identifiers) == len({*identifiers})
    for part in form["body"]:
        assert part["type"] in {"textarea", "checkboxes", "input", "dropdown"}
        assert part["attributes"].get("label")


def test_the_page_on_compatibility_names_the_versions_that_are_declared():
    page = (ROOT / "docs" / "compatibility.md").read_text()
    assert PROJECT["requires-python"].removeprefix(">=") in page
    for classifier in PROJECT["classifiers"]:
        if version := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", classifier):
            assert version[1] in page
    assert "torch 2.11" in page
