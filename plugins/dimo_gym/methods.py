"""The methods that are compared, and one cell of the table: a generator that is trained and measured."""

import tempfile
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

import attrs

from dimo_core.config.distil import Job, resolve_job
from dimo_core.data.feeds import ConditionFeed, TokenFeed
from dimo_core.device import find_device
from dimo_core.engine.loop import Engine, Feed
from dimo_core.errors import NumericalError
from dimo_core.files.folder import Folder
from dimo_core.generator import Generator
from dimo_core.objective import Stream
from dimo_core.registry import Registry
from dimo_gym.distances import compared, mean
from dimo_gym.joints import CONDITIONS, Kind, Known
from dimo_gym.measuring import Law, generator_law, in_turn
from dimo_gym.teacher import GymTeacher

Knows = Literal["exact", "learnt"]


@attrs.frozen(kw_only=True)
class Method:
    """A method of distillation with its own choices.

    Attributes:
        about: What it is, in a line.
        objective: The objective and its options.
        auxiliary: Options of the auxiliary.
        r_init: Share of masks that generation starts from. What learns from re-masked data starts from masks
            alone, as random codes are never seen there.
        divergences: Which may be chosen; None for any.
        spread: Whether the objective's ``horizon`` is 1 / steps.
        pace: Multiplies the learning rates. From masks alone the teacher's copy is nearly as good as
            anything, and large rates lead away from it.
    """

    about: str
    objective: Mapping[str, Any]
    auxiliary: Mapping[str, Any] = attrs.field(factory=dict)
    r_init: float = 0.6
    divergences: tuple[str, ...] | None = None
    spread: bool = False
    pace: float = 1.0


METHODS: Mapping[str, Method] = {
    "dimo": Method(about="Di[M]O, r_init 0.6", objective={"name": "dimo"}),
    "dimo-masks": Method(
        about="Di[M]O from masks alone, r_init 1",
        objective={"name": "dimo"},
        r_init=1.0,
        divergences=("jeffrey",),
    ),
    "dimo-data": Method(
        about="Di[M]O's step on completions of re-masked data",
        objective={"name": "dimo-data"},
        r_init=1.0,
        pace=0.1,
    ),
    "idlm": Method(
        about="IDLM",
        objective={"name": "idlm"},
        auxiliary={"soft": 1.0},
        r_init=1.0,
        divergences=("rkl",),
        pace=0.1,
    ),
    "d-mmd": Method(
        about="D-MMD",
        objective={"name": "idlm", "corruption": "posterior"},
        auxiliary={"teacher_weight": 1.0},
        r_init=1.0,
        divergences=("rkl",),
        pace=0.1,
        spread=True,
    ),
}

RATES: Mapping[Knows, tuple[float, float]] = {"exact": (0.2, 0.5), "learnt": (3e-3, 1e-2)}
"""Learning rates of generator and auxiliary: of a table's entries, and of a perceptron's weights."""


@attrs.frozen(kw_only=True)
class Cell:
    """One generator.

    Attributes:
        joint: What is to be learnt.
        knows: What its teacher is.
        method: One of ``METHODS``.
        divergence: By registry name, with its default options.
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
def teacher_of(joint: Kind, knows: Knows) -> GymTeacher:
    """The teacher of a joint; a learnt one is trained once a process."""
    return GymTeacher(joint=joint, knows=knows)


@cache
def installed() -> Registry:
    """The plugins of this process."""
    return Registry.discover()


def job_of(cell: Cell, *, training: int, batch: int) -> Job:
    """The distillation of a cell.

    Args:
        cell: Which.
        training: Steps of the training.
        batch: Batch size.
    """
    method, teacher = METHODS[cell.method], teacher_of(cell.joint, cell.knows)
    objective = dict(method.objective) | ({"horizon": 1 / cell.steps} if method.spread else {})
    few: dict[str, Any] = (
        {"name": "few_step", "steps": cell.steps} if cell.steps > 1 else {"name": "one_step"}
    )
    rates = zip(("generator", "auxiliary"), RATES[cell.knows], strict=True)
    parts = {part: {"lr": lr * method.pace, "warmup": 0, "clip": None} for part, lr in rates}
    parts["generator"]["ema"] = 0.98
    how: dict[str, Any] = {
        "teacher": teacher,
        "generator": {**few, "r_init": method.r_init, "sigma_init": 0.0},
        "auxiliary": {"name": "denoiser", **method.auxiliary},
        "divergence": {"name": cell.divergence},
        "objective": {**objective, **parts},
        "train": {"steps": training, "batch_size": batch},
        "eval": {"enabled": False},
        "seed": cell.seed,
        "device": "cpu",
        "out": "gym",
    }
    return resolve_job(how, registry=installed())


def trained(job: Job) -> Generator:
    """The generator of a job, with averaged weights; nothing is kept of the run besides.

    Raises:
        NumericalError: when the training diverges.
    """
    device, teacher, feeds = find_device("cpu"), job.teacher, dict[Stream, Feed]()
    objective = job.objective.build(job.ingredients())
    if "conditions" in job.objective.needs:
        stream = job.conditions.open(teacher.conditioning, seed=job.seed)
        feeds["conditions"] = ConditionFeed(stream=stream, teacher=teacher, device=device)
    if job.data is not None:
        examples = job.data.load(job.data.splits()[0])
        feeds["data"] = TokenFeed(teacher, job.data, examples, seed=job.seed, device=device)
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(objective, feeds, job.train, folder=Folder(folder), seed=job.seed, device=device)
        while engine.step < job.train.steps:
            engine.take_step()
    (product,) = [state for state in engine.states.values() if isinstance(state.module, Generator)]
    with product.averaged():
        averaged = {name: tensor.clone() for name, tensor in product.module.state_dict().items()}
    product.module.load_state_dict(averaged)
    assert isinstance(product.module, Generator)
    return product.module.eval()


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
    what = attrs.asdict(cell)
    try:
        generator = trained(job_of(cell, training=training, batch=batch))
    except NumericalError as error:
        return {**what, "failed": str(error).splitlines()[0]}
    return {
        **what,
        **judged(generator_law(teacher_of(cell.joint, cell.knows), generator), cell.joint, cell.knows),
    }
