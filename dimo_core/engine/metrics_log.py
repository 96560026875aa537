"""``metrics.jsonl``: one JSON object a line, in order of steps."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from dimo_core.files.folder import Folder

NAME = "metrics.jsonl"


def write_metrics(folder: Folder, step: int, values: Mapping[str, float]) -> None:
    """Append the scalars of a step."""
    folder.append(NAME, json.dumps({"step": step, **values}) + "\n")


def read_metrics(folder: Folder) -> list[dict[str, Any]]:
    """All complete lines; a last line that was cut off by a crash is dropped."""
    if not folder.exists(NAME):
        return []
    lines = []
    for text in folder.read(NAME).decode().splitlines():
        with suppress(ValueError):
            lines.append(json.loads(text))
    return lines


def forget_metrics(folder: Folder, step: int) -> None:
    """Drop the lines after ``step``, which a resumed run will write again."""
    if folder.exists(NAME):
        kept = [line for line in read_metrics(folder) if line["step"] <= step]
        folder.write(NAME, "".join(json.dumps(line) + "\n" for line in kept).encode())
