"""``dimo gym`` at work: cells in some processes, then table and figures."""

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

import attrs
import torch
from loguru import logger

from dimo_core.errors import UnknownNameError, UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.owner import owned
from dimo_gym.cells import Cell, installed
from dimo_gym.measuring import SAMPLES
from dimo_gym.methods import METHODS
from dimo_gym.plan import Plan, file_of, finished, floors, keep, rows_of_teachers
from dimo_gym.report import write

SMOKE: dict[str, Any] = {
    "joints": ("halves",),
    "teachers": ("exact",),
    "methods": ("dimo", "dimo-masks", "idlm"),
    "divergences": ("jeffrey", "rkl"),
    "steps": (1, 2),
    "seeds": 1,
    "training": 60,
    "batch": 128,
}
"""The smallest table that shows the known orders."""


def plan_of(*, smoke: bool, **asked: Any) -> Plan:
    """What a command line asks for.

    Args:
        smoke: Ask for ``SMOKE`` instead.
        asked: Fields of ``Plan`` but for samples; no methods or divergences for all.

    Raises:
        UnknownNameError: for a method or divergence that there is not.
    """
    asked |= SMOKE if smoke else {}
    asked["methods"] = asked["methods"] or tuple(METHODS)
    known = {"method": [*METHODS], "divergence": installed().names("divergence")}
    for kind, names in known.items():
        for name in asked[f"{kind}s"] or ():
            if name not in names:
                raise UnknownNameError(kind, name, names, "(of `dimo gym`)")
    return Plan(**asked, samples=2**14 if smoke else SAMPLES)


def run(*, out: str, workers: int, summary: bool, **asked: Any) -> str:
    """Measure what is not finished, write table and figures, and return the table.

    Args:
        out: Folder of the gym.
        workers: Processes.
        summary: Measure no further generators.
        asked: As for ``plan_of``.

    Raises:
        UsageError: for a method or divergence that there is not, or a folder of another training, or one of
            which a summary is asked and nothing is finished.
    """
    plan = plan_of(**asked)
    with owned(out) as folder:
        cells = plan.cells()
        if summary and not finished(folder, cells):
            raise UsageError(
                f"{out!r} holds no finished cell of what is asked for, so there is nothing to sum up. Give "
                "the --out and options of the gym that was measured, or measure: leave out --summary."
            )
        plan.begin(folder)
        if not summary:
            waiting = [cell for cell in cells if not folder.exists(file_of(cell))]
            logger.info(
                "{} of {} cells are finished; the others take {:.0f} minutes of a core, {} at a time",
                len(cells) - len(waiting),
                len(cells),
                plan.core_seconds(waiting) / 60,
                workers,
            )
            work(folder, waiting, plan, workers)
        rows = [*rows_of_teachers(folder, plan, measure=not summary)]
        return write(folder, finished(folder, cells), rows, floors(plan), plan)


def work(folder: Folder, cells: Sequence[Cell], plan: Plan, workers: int) -> None:
    """Measure cells and keep each; with one worker in this process.

    Args:
        folder: Of the gym.
        cells: What is not finished.
        plan: What the cells are of.
        workers: Processes.
    """
    how, began = {"training": plan.training, "batch": plan.batch}, time.monotonic()

    def told(done: int, found: dict[str, Any]) -> None:
        far = found.get("failed") or f"tv {found['data']['tv']:.3f}"
        name = " ".join(str(found[field.name]) for field in attrs.fields(Cell))
        logger.info("{}/{} after {:.0f} s: {}: {}", done, len(cells), time.monotonic() - began, name, far)

    if workers == 1:
        for done, cell in enumerate(cells, 1):
            told(done, keep(folder, cell, **how))
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=one_thread) as pool:
        waiting = [pool.submit(keep, folder, cell, **how) for cell in cells]
        try:
            for done, finished_cell in enumerate(as_completed(waiting), 1):
                told(done, finished_cell.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def one_thread() -> None:
    """In a process of its own: as many processes as cores need no threads, and repeat their numbers."""
    torch.set_num_threads(1)
    logger.remove()
