"""Sphinx: pages that are Jupyter notebooks, executed when the site is built.

A notebook becomes Markdown, with what each code cell has printed and shown below it. Cells run in a Python
process of their own, in a folder that is thrown away; what fails there fails the build. No Jupyter is needed
for that: cells hold Python alone, no magics. Outputs that are stored in the file are not looked at. A build
that should be fast leaves the execution out: ``-D notebook_execute=0``.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging

CELLS = Path(__file__).with_name("cells.py")
logger = logging.getLogger(__name__)


def markdown(notebook: str, path: str, *, execute: bool = True) -> str:
    """A notebook with its outputs as Markdown.

    Raises:
        ExtensionError: where a cell fails.
    """
    cells = json.loads(notebook)["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    outputs = iter(executed(code, path) if execute else [{}] * len(code))
    parts = []
    for cell in cells:
        text = "".join(cell["source"])
        if cell["cell_type"] == "code":
            parts += [f"```python\n{text}\n```", *output(**next(outputs))]
        elif cell["cell_type"] == "markdown":
            parts.append(text)
    return "\n\n".join(parts)


def executed(code: list[str], path: str) -> list[dict[str, str]]:
    """What came of each cell; the build waits for it, and says for how long."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, str(CELLS)],
            input=json.dumps(code),
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, "MPLBACKEND": "agg"},
        )
    failed = [{"error": done.stderr}]
    found: list[dict[str, str]] = json.loads(done.stdout) if done.returncode == 0 else failed
    if found and "error" in found[-1]:
        raise ExtensionError(f"{path}: cell {len(found)} failed:\n{found[-1]['error']}")
    logger.info("executed %s in %.0f seconds", path, time.monotonic() - began)
    return found


def output(printed: str = "", text: str = "", png: str = "") -> list[str]:
    """What a cell printed and showed, as Markdown."""
    lines = "\n".join(part.rstrip("\n") for part in (printed, text) if part)
    parts = [f"````text\n{lines}\n````"] if lines else []
    if png:
        parts.append(f'<img alt="what the cell shows" src="data:image/png;base64,{png}">')
    return [":::{container} cell-output", *parts, ":::"] if parts else []


class NotebookParser(MystParser):
    """Reads a notebook through its Markdown."""

    supported = ("ipynb",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Parse a source text."""
        execute = bool(document.settings.env.config.notebook_execute)
        super().parse(markdown(inputstring, str(document["source"]), execute=execute), document)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the kind of source."""
    app.add_config_value("notebook_execute", True, "env", bool)
    app.add_source_suffix(".ipynb", "ipynb")
    app.add_source_parser(NotebookParser)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
