"""The folder of a run: never written over, and with a copy of everything that was logged."""

from collections.abc import Iterator
from contextlib import contextmanager

from loguru import logger

from dimo_core.errors import UsageError
from dimo_core.folder import Folder

CONFIG = "config.yaml"
"""The resolved configuration of a run."""


def open_run_folder(out: str, *, resume: bool) -> Folder:
    """The run folder.

    Args:
        out: Path or fsspec URL.
        resume: Whether the run that is in it will be continued.

    Raises:
        UsageError: when it is not empty and no run is continued.
    """
    folder = Folder(out)
    if not resume and folder.names():
        raise UsageError(
            f"{out!r} is not empty. Continue that run with --resume {out}, or choose another --out."
        )
    return folder


@contextmanager
def log_file(folder: Folder) -> Iterator[None]:
    """Within, log lines also go to ``run.log``."""
    form = "{time:YYYY-MM-DD HH:mm:ss} {level: <7} {message}\n{exception}"
    sink = logger.add(lambda message: folder.append("run.log", message), format=form, level="INFO")
    try:
        yield
    finally:
        logger.remove(sink)
