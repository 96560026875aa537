"""The folder of a run: never written over, and with a copy of everything that was logged."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from loguru import logger

from dimo_core.conditions import Conditioning
from dimo_core.config.resume import check_unchanged
from dimo_core.errors import UsageError
from dimo_core.files.folder import Folder
from dimo_core.sources import Conditions, ConditionStream

CONFIG = "config.yaml"
"""The resolved configuration of a run."""

CONDITIONS = "conditions.json"
"""What the stream of conditions had found when the run was started, if it keeps a record."""


def open_run_folder(out: str, config: Mapping[str, Any], *, resume: bool) -> Folder:
    """The run folder.

    Args:
        out: Path or fsspec URL.
        config: The resolved configuration.
        resume: Whether the run that is in it will be continued.

    Raises:
        UsageError: when it is not empty and no run is continued, or the run was started with other options.
    """
    folder = Folder(out)
    if resume and folder.exists(CONFIG):
        check_unchanged(folder.read_yaml(CONFIG), config, out)
    if not resume and folder.names():
        raise UsageError(
            f"{out!r} is not empty. Continue that run with --resume {out}, or choose another --out."
        )
    folder.claim()
    return folder


def open_conditions(
    source: Conditions, conditioning: Conditioning, folder: Folder, *, seed: int, resume: bool
) -> ConditionStream:
    """The conditions of a run; those of a resumed run are as they were when it was started.

    Args:
        source: Where they come from.
        conditioning: What the teacher takes.
        folder: The run folder.
        seed: Fixes the order.
        resume: Whether the run that is in the folder is continued.

    Raises:
        UsageError: when the source cannot give what the teacher takes.
    """
    if resume and folder.exists(CONDITIONS):
        return source.reopen(conditioning, json.loads(folder.read(CONDITIONS)), seed=seed)
    return source.open(conditioning, seed=seed)


@contextmanager
def log_file(folder: Folder) -> Iterator[None]:
    """Within, log lines also go to ``run.log``."""
    form = "{time:YYYY-MM-DD HH:mm:ss} {level: <7} {message}"
    sink = logger.add(lambda message: folder.append("run.log", message), format=form, level="INFO")
    try:
        yield
    finally:
        logger.remove(sink)
