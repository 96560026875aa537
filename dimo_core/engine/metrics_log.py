"""``metrics.jsonl``: one JSON object a line, in order of steps; checkpoints hold their number and digest."""

import json
from collections.abc import Mapping
from typing import Any

from loguru import logger

from dimo_core.files.folder import Folder
from dimo_core.files.log import Log
from dimo_core.files.weights import sha256

NAME = "metrics.jsonl"


def write_metrics(log: Log, step: int, values: Mapping[str, float]) -> None:
    """Append the scalars of a step."""
    log.write(json.dumps({"step": step, **values}) + "\n")


def read_metrics(folder: Folder) -> list[dict[str, Any]]:
    """All whole lines; damaged ones are named in the log, but for a last one that a crash cut off."""
    lines, broken = [], []
    for number, text in enumerate(_whole(folder), 1):
        try:
            line = json.loads(text)
            if type(line["step"]) is not int:
                raise ValueError
            lines.append(line)
        except (ValueError, TypeError, KeyError, RecursionError):
            broken.append(number)
    if broken:
        more = f" and {len(broken) - 5} more" if len(broken) > 5 else ""
        numbers = f"{', '.join(map(str, broken[:5]))}{more}"
        logger.warning("{} is damaged: left out are the lines {}", folder.path(NAME), numbers)
    return lines


def metrics_facts(folder: Folder) -> dict[str, Any]:
    """Number and SHA-256 of the lines so far, for a checkpoint."""
    lines = _whole(folder)
    return {"lines": len(lines), "sha256": _digest(lines)}


def forget_metrics(folder: Folder, step: int, facts: Mapping[str, Any] | None) -> None:
    """Drop the lines after ``step``, which a resumed run will write again; damage before is told.

    Args:
        folder: The run folder.
        step: The last finished step.
        facts: What ``metrics_facts`` said then; None when nothing is known.
    """
    lines = _whole(folder)
    first = lines[: facts["lines"]] if facts else []
    if facts is None or _digest(first) != facts["sha256"]:
        kept = [line for line in read_metrics(folder) if line["step"] <= step]
        first = [json.dumps(line).encode() for line in kept]
        if facts is not None:
            logger.warning(
                "{} is damaged: of the {} lines up to step {}, {} can be read, and not all are as they were "
                "written. Curves and the choice of the best evaluation may be wrong.",
                folder.path(NAME),
                facts["lines"],
                step,
                len(kept),
            )
    if lines or folder.exists(NAME):
        folder.write(NAME, b"".join(line + b"\n" for line in first))


def _whole(folder: Folder) -> list[bytes]:
    """The lines that end, without their ends."""
    return folder.read(NAME).split(b"\n")[:-1] if folder.exists(NAME) else []


def _digest(lines: list[bytes]) -> str:
    return sha256(b"\n".join(lines))
