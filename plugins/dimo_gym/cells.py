"""One cell of the table: a generator that is trained and measured."""

import math
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

import attrs
from torch import Tensor

from dimo_core.config.distil import Job, resolve_job
from dimo_core.data.feeds import ConditionFeed, Feed, TokenFeed
from dimo_core.device import find_device
from dimo_core.engine.loop import Engine
from dimo_core.errors import NumericalError
from dimo_core.files.folder import Folder
from dimo_core.generator import Generator
from dimo_core.objective import Stream
from dimo_core.registry import Registry
from dimo_core.sources import Examples
from dimo_gym.data import GymData
from dimo_gym.distances import compared, mean
from dimo_gym.joints import CONDITIONS, Kind, Known
from dimo_gym.measuring import Law, generator_law, in_turn
from dimo_gym.methods import METHODS, NONE, Method
from dimo_gym.teacher import GymTeacher

Knows = Literal["exact", "learnt"]

NUMBERS = 16
"""Of noise at a site (IMDM), and those that a latent is made into (Di4C)."""

FIRST = 16
"""Steps of a sample in SDTT's first round."""

RATES: Mapping[Knows, tuple[float, float]] = {"exact": (4e-3, 1e-2), "learnt": (3e-3, 1e-2)}
"""Learning rates of generator and auxiliary; those of a table's logits are ``GAIN`` times as large."""


SMOOTH = 0.1
"""Multiplies the rates of perceptrons in several steps: what one state learns moves all others, too."""


@attrs.frozen
class Cell:
    """One generator.

    Attributes:
        joint: What is to be learnt.
        knows: What its teacher is.
        method: One of ``METHODS``.
        divergence: By registry name, with its default options; ``NONE`` for none.
        steps: Passes of the generator.
        seed: Of the training.
    """

    joint: Kind
    knows: Knows
    method: str
    divergence: str
    steps: int
    seed: int

    @property
    def name(self) -> str:
        """Name of its file."""
        return "_".join(map(str, attrs.astuple(self)))


@cache
def teacher_of(joint: Kind, knows: Knows, extra: bool = False) -> GymTeacher:
    """The teacher of a joint; a learnt one is trained once a process."""
    return GymTeacher(joint=joint, knows=knows, extra=extra)


@cache
def installed() -> Registry:
    """The plugins of this process."""
    return Registry.discover()


@cache
def examples_of(data: GymData, split: str) -> Examples:
    """Data are drawn once a process."""
    return data.load(split)


def job_of(cell: Cell, *, training: int, batch: int, warm: bool = False) -> Job:
    """The distillation of a cell.

    Args:
        cell: Which.
        training: Steps of the training.
        batch: Batch size.
        warm: Give the job of the half before.
    """
    method = METHODS[cell.method]
    objective, auxiliary = dict(method.objective), method.auxiliary
    if method.warm is not None:
        training = training // 2 if warm else training - training // 2
        objective, auxiliary = (dict(method.warm), None) if warm else (objective, auxiliary)
    if "corruption" in objective:
        objective["horizon"] = 1 / cell.steps
    if objective["name"] == "sdtt":
        objective |= rounds(cell.steps, training)
    pace = method.pace[min(cell.steps, 3) - 1]
    if cell.knows == "learnt" and cell.steps > 1:
        pace *= SMOOTH
    parts = ("generator",) if auxiliary is None else ("generator", "auxiliary")
    for part, lr in zip(parts, RATES[cell.knows], strict=False):
        objective[part] = {"lr": lr * pace, "warmup": 0, "clip": None}
    objective["generator"]["ema"] = 0.98
    how: dict[str, Any] = {
        "teacher": teacher_of(cell.joint, cell.knows, extra=method.generator == "mixture"),
        "generator": generator_of(method, cell),
        "objective": objective,
        "train": {"steps": training, "batch_size": batch},
        "eval": {"enabled": False},
        "seed": cell.seed,
        "device": "cpu",
        "out": "gym",
    }
    if auxiliary is not None:
        how["auxiliary"] = {"name": "denoiser", **auxiliary}
        how["divergence"] = {"name": cell.divergence}
    elif cell.divergence != NONE and not warm:
        how["divergence"] = {"name": cell.divergence}
    if method.drawn and auxiliary is None:
        how["data"] = {"name": "gym", "drawn_by": cell.knows}
    return resolve_job(how, registry=installed())


def generator_of(method: Method, cell: Cell) -> dict[str, Any]:
    """Name and options of a cell's generator; a mixture decides at least one site in each step."""
    if method.generator == "mixture":
        steps = min(cell.steps, teacher_of(cell.joint, cell.knows).tokens.length)
        return {"name": "mixture", "steps": steps, "latent_features": NUMBERS}
    one = method.generator == "few_step" and cell.steps == 1
    steps_of = {"name": "one_step"} if one else {"name": method.generator, "steps": cell.steps}
    noise = {"noise": NUMBERS} if method.generator == "imdm" else {}
    return {**steps_of, **noise, "r_init": method.r_init, "sigma_init": 0.0}


def rounds(steps: int, training: int) -> dict[str, int]:
    """Rounds of SDTT that fit in the training; in the last one a step of the student is 1 / steps long."""
    first = max(FIRST, 2 * steps)
    count = round(math.log2(first / steps))
    return {"first_steps": first, "round_steps": max(1, training // count)}


def trained(job: Job, start: Mapping[str, Tensor] | None = None) -> Generator:
    """The generator of a job, with averaged weights; nothing is kept of the run besides.

    Args:
        job: The distillation.
        start: Weights of the generator to go on from.

    Raises:
        NumericalError: when the training diverges.
    """
    device, teacher, feeds = find_device("cpu"), job.teacher, dict[Stream, Feed]()
    objective = job.objective.build(job.ingredients())
    (product,) = [part.module for part in objective.parts().values() if isinstance(part.module, Generator)]
    if start is not None:
        product.load_state_dict(start)
    if "conditions" in job.objective.needs:
        stream = job.conditions.open(teacher.conditioning, seed=job.seed)
        feeds["conditions"] = ConditionFeed(stream=stream, teacher=teacher, device=device)
    if job.data is not None:
        assert isinstance(job.data, GymData), "cells read data of the gym"
        examples = examples_of(job.data, job.data.splits()[0])
        feeds["data"] = TokenFeed(teacher, job.data, examples, seed=job.seed, device=device)
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(objective, feeds, job.train, folder=Folder(folder), seed=job.seed, device=device)
        while engine.step < job.train.steps:
            engine.take_step()
    (state,) = [state for state in engine.states.values() if state.module is product]
    with state.averaged():
        averaged = {name: tensor.clone() for name, tensor in product.state_dict().items()}
    product.load_state_dict(averaged)
    return product.eval()


def judged(law: Law, joint: Kind, knows: Knows) -> dict[str, Any]:
    """Distances of a law from the data's joint and from what its teacher draws site by site, as plain data.

    Means over the conditions; null stands for infinity.
    """
    truths = {"data": Known(joint=joint).p(), "teacher": in_turn(teacher_of(joint, knows)).q}
    found: dict[str, Any] = {"how": law.how, "error": law.error}
    for name, p in truths.items():
        each = mean([compared(p[c], law.q[c]) for c in range(len(CONDITIONS))])
        found[name] = {key: None if x == float("inf") else x for key, x in attrs.asdict(each).items()}
    return found


def measured(cell: Cell, *, training: int, batch: int) -> dict[str, Any]:
    """Train and measure; a training that diverged says so under ``failed``.

    Args:
        cell: Which.
        training: Steps of the training.
        batch: Batch size.
    """
    what, began = attrs.asdict(cell), time.process_time()
    try:
        start = None
        if METHODS[cell.method].warm is not None:
            start = trained(job_of(cell, training=training, batch=batch, warm=True)).state_dict()
        generator = trained(job_of(cell, training=training, batch=batch), start)
    except NumericalError as error:
        return {**what, "failed": str(error).splitlines()[0]}
    law = generator_law(teacher_of(cell.joint, cell.knows), generator)
    seconds = round(time.process_time() - began, 2)
    return {**what, **judged(law, cell.joint, cell.knows), "seconds": seconds}
