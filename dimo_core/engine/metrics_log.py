"""``metrics.jsonl``: one JSON object a line, in order of steps."""

import json
from collections.abc import Mapping
from typing import Any

from dimo_core.files.folder import Folder

NAME = "metrics.jsonl"


class MetricsLog:
    """Appends scalars; a resumed run first forgets the lines that it will write again.

    Args:
        folder: The run folder.
        start: First step of this process.
    """

    def __init__(self, folder: Folder, start: int) -> None:
        self.folder = folder
        if folder.exists(NAME):
            kept = [line for line in read_metrics(folder) if line["step"] <= start]
            folder.write(NAME, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line."""
        self.folder.append(NAME, json.dumps({"step": step, **values}) + "\n")


def read_metrics(folder: Folder) -> list[dict[str, Any]]:
    """All complete lines; a last line that was cut off by a crash is dropped."""
    if not folder.exists(NAME):
        return []
    lines = []
    for text in folder.read(NAME).decode().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines
