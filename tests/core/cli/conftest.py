"""What tests of commands share: an empty folder, toy plugins, a clean environment, a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from loguru import logger

TOYS = Path(__file__).parents[2] / "data" / "toy_site"


@pytest.fixture
def toys(monkeypatch, tmp_path):
    for variable in [name for name in os.environ if name.startswith("DIMO_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.syspath_prepend(str(TOYS))
    monkeypatch.chdir(tmp_path)
    yield
    logger.remove()


@pytest.fixture
def python(toys):
    """Runs Python in a process of its own, with the toy plugins."""

    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        paths = os.pathsep.join([str(TOYS), *filter(None, [os.environ.get("PYTHONPATH")])])
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": paths, **environ},
        )

    return run


@pytest.fixture
def help_text(capsys):
    """What was printed, in one line, in the layout of Python before 3.13, which gives each name its value."""

    def text() -> str:
        words = " ".join(capsys.readouterr().out.split())
        return re.sub(r"(?<!\S)(--?[\w.-]+), (--?[\w.-]+) ([A-Z]+)\b", r"\1 \3, \2 \3", words)

    return text
