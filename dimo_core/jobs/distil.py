"""``dimo run``: distil, evaluate, and leave a run folder behind."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from shlex import quote
from typing import Any

import attrs
import torch
from loguru import logger

from dimo_core.backbone import Backbone
from dimo_core.config.distil import Job, resolve_job
from dimo_core.config.folders import check_unchanged
from dimo_core.data.feeds import ConditionFeed, Feed
from dimo_core.device import arithmetic, crowded
from dimo_core.engine.alarms import alarm
from dimo_core.engine.frozen import cast_frozen, frozen_parameters
from dimo_core.engine.launcher import joined
from dimo_core.engine.loop import Action, Engine
from dimo_core.engine.ranks import Ranks
from dimo_core.errors import StorageError, UsageError
from dimo_core.evaluation.table import Table
from dimo_core.files.folder import CONFIG, Folder
from dimo_core.files.generator_folder import save_generator
from dimo_core.files.log import Log
from dimo_core.files.owner import owned, tentative
from dimo_core.files.state import checksum
from dimo_core.generator import Generator
from dimo_core.jobs.first_look import look
from dimo_core.jobs.results import Results
from dimo_core.jobs.training_data import training_data
from dimo_core.objective import Objective, Stream
from dimo_core.registry import Registry
from dimo_core.sources import ConditionStream
from dimo_core.texts import log_filter
from dimo_core.tracker import Spared

CONDITIONS = "conditions.json"
"""What the stream of conditions had found when the run was started, if it keeps a record."""

RUN_LOG = "run.log"
"""What the console said."""

LOOKED_AT = 2
"""Conditions for which teacher and generator are looked at before the first step."""


@attrs.frozen(kw_only=True, eq=False)
class RunResult:
    """What a run left behind.

    Attributes:
        folder: The run folder.
        generator: The trained generator, averaged weights, in eval mode. With ``train.frozen_dtype`` bf16 its
            base may be in bf16: draw within ``torch.autocast``, or load it from the folder.
        table: The result table; None when evaluation was off or the teacher has no protocol.
    """

    folder: Folder
    generator: Generator
    table: Table | None


def distill(
    *, preset: str | None = None, resume: bool = False, registry: Registry | None = None, **options: Any
) -> RunResult:
    """Distil a teacher into a generator of one or a few steps; the Python form of ``dimo run``.

    Args:
        preset: A named recipe of the teacher; its first one when None.
        resume: Continue the run in ``out``.
        registry: The plugins; discovered when None.
        options: As in a config file. A plugin is given by name, as ``{"name": ..., option: ...}``, or as an
            options object such as ``Jeffrey(beta=0.2)``; ``train`` and ``eval`` as mappings or objects;
            ``seed``, ``out`` and ``device`` as values.

    Returns:
        The run folder, the generator and the table.

    Raises:
        UsageError: for wrong options, or an ``out`` that is not empty.
    """
    registry = registry or Registry.discover()
    return run(resolve_job(options, preset=preset, registry=registry), resume=resume, registry=registry)


def run(job: Job, *, resume: bool = False, registry: Registry | None = None) -> RunResult:
    """Train, evaluate and report.

    Args:
        job: What to do.
        resume: Continue the run in ``job.out`` from its newest whole checkpoint.
        registry: The plugins that the evaluation plan names; discovered when None.

    Raises:
        UsageError: when the run folder is not empty and this is no resumption, or it was started with
            other options.
        Interrupted: after a signal, with the state saved.
        NumericalError: for a non-finite gradient, with the state saved.
    """
    registry = registry or Registry.discover()
    with ExitStack() as stack:
        ranks, device = stack.enter_context(joined(job.device, job.train.shards))
        job.teacher.check()
        opened = open_run_folder(job.out, job.config, resume=resume)
        folder = stack.enter_context(ranks.folder(opened))
        tracker = Spared(job.tracker if ranks.leads else None)
        job = attrs.evolve(job, out=folder.url, teacher=job.teacher.on(device), tracker=tracker)
        return _run(job, folder, registry, resume, ranks, device)


def _run(
    job: Job, folder: Folder, registry: Registry, resume: bool, ranks: Ranks, device: torch.device
) -> RunResult:
    stream = open_conditions(job, folder, ranks, resume=resume)
    objective, network, product = _built(job, stream, device)
    origin = _written(folder, job, stream, registry)
    with log_file(folder):
        feeds = _feeds(job, stream, folder, origin, ranks, device)
        how: Any = {"folder": folder, "seed": job.seed, "device": device, "origin": origin, "ranks": ranks}
        engine = Engine(objective, feeds, job.train, **how)
        if resume and engine.resume():
            logger.info("resuming {} at step {}", job.out, engine.step)
        state, generator = engine.states[product], objective.parts()[product].module
        assert isinstance(generator, Generator)
        judging = partial(Results, job, engine, state, network, registry)
        results = judging() if job.eval.enabled or job.train.sample_every else None
        _announce(job, device)
        actions = []
        if results is not None:
            if engine.step == 0 and job.train.sample_every:
                results.show(0)
            actions.append(Action(every=job.train.sample_every, run=results.show))
            actions.append(Action(every=job.eval.every, run=results.judge))
        job.tracker.start(job.out, job.config)
        raised: set[str] = set()

        def sink(step: int, values: Mapping[str, float]) -> None:
            alarm(step, values, codes=job.teacher.tokens.codes, raised=raised)
            job.tracker.scalars(step, values)
            if results is not None and any(action.due(step) for action in actions):
                results.refresh(step, values)

        engine.run(actions, sink)
        with state.averaged():
            facts = {"step": engine.step, "seed": job.seed}
            save_generator(folder.sub("generator"), generator, job.teacher, job.config, facts)
            table = (results or judging()).finish()
            averaged = {name: t.clone() for name, t in generator.state_dict().items()}
        job.tracker.finish()
        generator.load_state_dict(averaged)
        return RunResult(folder=folder, generator=generator.eval(), table=table)


def _built(job: Job, stream: ConditionStream, device: torch.device) -> tuple[Objective, Backbone, str]:
    """The objective on its device, the teacher's network, looked at, and which part is the generator."""
    objective = job.objective.build(job.ingredients())
    if job.train.frozen_dtype == "fp32" and any(p.dtype.itemsize < 4 for p in frozen_parameters(objective)):
        raise UsageError(
            "this teacher's weights are in half precision, from an earlier run with train.frozen_dtype bf16. "
            "Take a new teacher object, or set train.frozen_dtype to bf16."
        )
    cast_frozen(objective, job.train.frozen_dtype)
    parts = {name: part.module.to(device) for name, part in objective.parts().items()}
    generators = [name for name, module in parts.items() if isinstance(module, Generator)]
    if len(generators) != 1:
        raise UsageError(
            f"objective {job.config['objective']['name']!r} trains {' and '.join(parts)}, of which "
            f"{len(generators)} are generators; `dimo run` needs one, which it judges and saves. "
            "A teacher is trained by `dimo pretrain`."
        )
    network = job.teacher.network(share=True).to(device).requires_grad_(False)
    with arithmetic(job.train.precision, device):
        look(job.teacher, network, parts, stream.read(0, LOOKED_AT), device)
    return objective, network, generators[0]


def _feeds(
    job: Job,
    stream: ConditionStream,
    folder: Folder,
    origin: dict[str, dict[str, str]],
    ranks: Ranks,
    device: torch.device,
) -> dict[Stream, Feed]:
    """A feed for each stream that the objective needs; notes in ``origin`` which data they are."""
    feeds: dict[Stream, Feed] = {}
    if "conditions" in job.objective.needs:
        feeds["conditions"] = ConditionFeed(stream=stream, teacher=job.teacher, device=device)
    if job.data is not None:
        with training_data(job.data, job.tokens, folder, ranks) as given:
            feeds["data"] = given.feed(job.teacher, seed=job.seed, device=device)
            origin["frozen"]["data"] = given.digest()
    return feeds


def _written(
    folder: Folder, job: Job, stream: ConditionStream, registry: Registry
) -> dict[str, dict[str, str]]:
    """Write down what the run is started with; returns what it is made of, for its checkpoints."""
    folder.write_yaml(CONFIG, dict(job.config))
    frozen = dict(job.teacher.provenance())
    if (record := stream.record()) is not None:
        folder.write_json(CONDITIONS, record)
        frozen["conditions"] = checksum(record)
    return {"frozen": frozen, "plugins": registry.versions(job.config)}


def _announce(job: Job, device: torch.device) -> None:
    length = f"{job.train.steps} steps of {job.train.batch_size}"
    what = f"distilling {job.config['teacher']['name']} with {', '.join([*job.method, length])}"
    logger.info("{} into {} on {}", what, job.out, device)
    for advice in filter(None, [crowded(device), *job.advice()]):
        logger.warning(advice)


@contextmanager
def open_run_folder(out: str, config: Mapping[str, Any], *, resume: bool) -> Iterator[Folder]:
    """The run folder, which no other run writes to meanwhile; one that fails as it starts leaves nothing.

    Raises:
        UsageError: when it is not empty and no run is continued, or the run was started with other options;
            when another process writes to it.
        StorageError: when it cannot be written.
    """
    with owned(out) as folder:
        if resume and folder.exists(CONFIG):
            check_unchanged(folder.read_yaml(CONFIG), config, out)
        if not resume and folder.strange_names():
            raise UsageError(
                f"{out!r} is not empty. Continue that run with --resume {quote(out)}, or choose another "
                "--out."
            )
        with nullcontext() if resume else tentative(folder, CONFIG, CONDITIONS, RUN_LOG):
            yield folder


def open_conditions(job: Job, folder: Folder, ranks: Ranks, *, resume: bool) -> ConditionStream:
    """The conditions of a run; those of a resumed run are as they were when it was started.

    Raises:
        UsageError: when the source cannot give what the teacher takes.
    """
    source, conditioning, seed = job.conditions, job.teacher.conditioning, job.seed
    if resume and folder.exists(CONDITIONS):
        return source.reopen(conditioning, folder.read_json(CONDITIONS), seed=seed)
    mine: list[ConditionStream] = []

    def first() -> Mapping[str, Any] | None:
        mine.append(source.open(conditioning, seed=seed))
        return mine[0].record()

    record = ranks.led(first)  # what is there may change while several look
    if mine:
        return mine[0]
    if record is None:
        return source.open(conditioning, seed=seed)
    return source.reopen(conditioning, record, seed=seed)


@contextmanager
def log_file(folder: Folder) -> Iterator[None]:
    """Within, log lines also go to ``RUN_LOG``."""
    form = "{time:YYYY-MM-DD HH:mm:ss} {level: <7} {message}"
    log = Log(folder, RUN_LOG)

    def write(message: str) -> None:
        with suppress(StorageError):  # what the work itself writes there fails as well, and says so
            log.write(message)

    sink = logger.add(write, format=form, level="INFO", filter=log_filter)
    try:
        yield
    finally:
        logger.remove(sink)
        with suppress(StorageError):
            log.flush()
