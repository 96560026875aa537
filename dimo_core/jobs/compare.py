"""``dimo compare`` and ``dimo evaluate``: the paper's table for any teacher."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from shlex import quote
from typing import Any

import attrs
import torch
from attrs import validators as v
from loguru import logger
from rich.console import Console

from dimo_core.engine.launcher import joined, launched
from dimo_core.engine.ranks import Ranks
from dimo_core.errors import Interrupted, UsageError
from dimo_core.evaluation.comparison import PROTOCOL, TO_READ, Comparison
from dimo_core.evaluation.drawing import SITES, Method, Shard, identity
from dimo_core.evaluation.judge import Judge
from dimo_core.evaluation.protocols import Protocol, digest
from dimo_core.evaluation.store import Store
from dimo_core.evaluation.table import Table
from dimo_core.files.folder import Folder
from dimo_core.files.owner import owned, tentative
from dimo_core.jobs.compared import TeacherRows, generator_methods, teacher_methods
from dimo_core.jobs.distil import RUN_LOG, log_file
from dimo_core.registry import Registry, built
from dimo_core.report.comparison_files import merged, publish, read_result
from dimo_core.report.comparison_table import result_of
from dimo_core.settings import Precision
from dimo_core.teacher import Teacher

FEW = 10
"""The fewest halves of which an interval can be made."""


@attrs.frozen(kw_only=True)
class Comparing:
    """What is compared, how, and where the results go.

    Attributes:
        out: Folder of the results, a path or URL; what is finished in it is not done again.
        rows: Rows of the teacher; None for none.
        generators: Folders of generators, or of runs.
        generator_steps: Steps of the generators' samples, a row for each; empty for each generator's own.
        images: Folder of pictures that are judged too; None for none.
        protocol: A named protocol, or the path of a file.
        changes: Fields of the protocol that are overridden; null ones are not.
        device: ``auto``, or a torch device.
        precision: How the networks compute that draw: ``fp32``, ``tf32`` or ``bf16``.
        batch_size: Samples drawn at a time; None for as many as suit the number of tokens.
        intervals: Halves of the samples for 95 % intervals; 0 for none.
        keep: Folder for the samples themselves; None keeps none.
        stream: Keep no finished batches on the disk; an interrupted row begins anew.
        shard: Draw this part of the batches only.
        command: What the page shows as the command.
    """

    out: str
    rows: TeacherRows | None = None
    generators: tuple[str, ...] = ()
    generator_steps: tuple[int, ...] = attrs.field(default=(), converter=tuple)
    images: str | None = None
    protocol: str = "plan"
    changes: Mapping[str, Any] = attrs.field(factory=dict)
    device: str = "auto"
    precision: Precision = "fp32"
    batch_size: int | None = attrs.field(default=None, validator=v.optional(v.gt(0)))
    intervals: int = 0
    keep: str | None = None
    stream: bool = False
    shard: Shard | None = None
    command: str = ""


def compare(teacher: Teacher, options: Comparing, registry: Registry | None = None) -> Table | None:
    """Draw and judge all rows, and write table, plots, pictures and page.

    Args:
        teacher: The teacher.
        options: What is compared.
        registry: The plugins; discovered when None.

    Returns:
        The table; None for a shard.

    Raises:
        Interrupted: for Ctrl-C; what is finished stays.
        UsageError: for what is unknown or impossible, before anything is drawn.
        CheckpointError: when weights are missing or damaged.
    """
    registry = registry or Registry.discover()
    _check(options)
    with ExitStack() as stack:
        ranks, device = stack.enter_context(joined(options.device))
        comparison, methods = ranks.agreed(lambda: _prepared(teacher, options, registry, ranks, device))
        folder = stack.enter_context(ranks.folder(_opened(options, comparison.protocol)))
        store = Store(attrs.evolve(folder, mute=False), options.stream)
        with log_file(folder):
            return _run(attrs.evolve(comparison, store=store), methods, options)


def _prepared(
    teacher: Teacher, options: Comparing, registry: Registry, ranks: Ranks, device: torch.device
) -> tuple[Comparison, list[Method]]:
    """What is compared, and how; nothing is written yet."""
    protocol = Protocol.resolve(teacher.evaluation(), options.protocol, options.changes)
    for choice in protocol.metrics if options.changes.get("metrics") else ():
        _ = built(registry, "metric", choice).fingerprint  # what was asked for by name is not just left out
    used = teacher.on(device)
    methods = _methods(teacher, used, options, protocol, device, registry)
    size = min(options.batch_size or max(1, SITES // teacher.tokens.length), protocol.block)
    judge = Judge.resolve(used, protocol, registry, batch_size=size, device=device)
    judge.require()
    comparison = Comparison(
        teacher=used,
        protocol=protocol,
        judge=judge,
        conditions=built(registry, "conditions", protocol.conditions, protocol.whose(teacher)),
        store=Store(Folder(options.out), options.stream),
        device=device,
        precision=options.precision,
        batch_size=size,
        intervals=options.intervals,
        keep=options.keep,
        shard=options.shard,
        ranks=ranks,
    )
    return comparison, methods


@contextmanager
def _opened(options: Comparing, protocol: Protocol) -> Iterator[Folder]:
    """The folder of the results, and that of kept samples with it; what fails as it starts leaves nothing."""
    shard = options.shard
    share = () if shard is None else (digest(protocol.as_dict()), f"{shard.index} of {shard.of}")
    with owned(options.out, *share) as folder, ExitStack() as keeping:
        begun = folder.exists(PROTOCOL)
        if others := [] if begun else [name for name in folder.strange_names() if name != RUN_LOG]:
            raise UsageError(
                f"{folder.url!r} holds other things than a comparison: {', '.join(others[:3])}. Choose "
                "another --out."
            )
        if options.keep is not None and Folder(options.keep) != folder:
            keeping.enter_context(owned(options.keep, *share))
        begin = nullcontext() if begun or share else tentative(folder, PROTOCOL, TO_READ, RUN_LOG)
        with begin:
            yield folder


def merge(paths: Sequence[str], out: str) -> Table:
    """Results of several folders in one table, with a warning where they do not compare.

    Args:
        paths: Folders, or the ``results.json`` in them.
        out: Where the files of the common table go: an empty folder.

    Raises:
        UsageError: when there are no results in a folder, or ``out`` is not empty.
    """
    found = {path: read_result(path) for path in dict.fromkeys(paths)}
    with owned(out) as folder:
        if folder.strange_names():
            raise UsageError(f"{out!r} is not empty. Choose another --out.")
        result = merged(found)
        publish(result, folder, title="Results side by side", lead="", facts={"results": ", ".join(found)})
    for note in result.table.notes:
        logger.warning(note)
    Console().print(result.table.rich())
    return result.table


def _methods(
    teacher: Teacher,
    used: Teacher,
    options: Comparing,
    protocol: Protocol,
    device: torch.device,
    registry: Registry,
) -> list[Method]:
    """The rows that are asked for, drawn with ``used`` on the device; what is named twice is one row."""
    if options.rows is None and not options.generators:
        return []  # pictures are judged without the teacher's weights
    teacher.check()
    facts, found = identity(teacher), []
    if options.rows is not None:
        found += teacher_methods(used, options.rows.ways(teacher, registry), device, facts)
    found += generator_methods(
        options.generators, protocol.temperatures, used, device, registry, facts, options.generator_steps
    )
    told = [(method.name, method.identity) for method in found]
    return [method for i, method in enumerate(found) if told[i] not in told[:i]]


def _check(options: Comparing) -> None:
    if options.intervals and options.intervals < FEW:
        raise UsageError(
            f"--intervals {options.intervals}: a 95 % interval needs at least {FEW} resamples, better 100"
        )
    if options.shard is not None and options.stream:
        raise UsageError("--shard writes batches that are joined later, and --stream writes none: give one")
    if options.shard is not None and launched() > 1:
        raise UsageError(
            f"--shard draws one part, and WORLD_SIZE is {launched()}: a launcher such as torchrun started "
            "processes that share all parts. Leave --shard out, or start the command without the launcher."
        )
    if options.shard is not None and not 1 <= options.shard.index <= options.shard.of:
        raise UsageError(
            f"--shard {options.shard.index}/{options.shard.of}: shards count from 1 to their number"
        )
    if options.changes.get("temperatures") and not options.generators:
        raise UsageError(
            "--temperature is for generators, and none is compared. That of a sampler is an option of it: "
            "'{name: maskgit, temperature: 0.8}'"
        )
    if options.generator_steps and not options.generators:
        raise UsageError(
            "--generator-steps is for generators, and none is compared. --sampling-steps is for samplers."
        )
    if options.rows is None and not options.generators and options.images is None:
        raise UsageError("nothing to compare: name a teacher's rows, or --generators")


def _run(comparison: Comparison, methods: Sequence[Method], options: Comparing) -> Table | None:
    folder = comparison.store.folder
    try:
        return _drawn(comparison, methods, options)
    except KeyboardInterrupt:
        raise Interrupted(
            "stopped; finished rows and batches are kept. The same command with --out "
            f"{quote(folder.url)} goes on."
        ) from None


def _drawn(comparison: Comparison, methods: Sequence[Method], options: Comparing) -> Table | None:
    protocol, folder = comparison.protocol, comparison.store.folder
    many = f" for each of {len(protocol.seeds)} seeds" if len(protocol.seeds) > 1 else ""
    samples = f"{protocol.samples} samples a row{many}" if methods else "pictures as they are"
    what, rows = f"{samples}, by the protocol {protocol.name!r}", f"{len(methods)} rows, " * bool(methods)
    logger.info("{}{}, into {} on {}", rows, what, folder.url, comparison.device)
    cells = comparison.run(methods)
    if cells is None:
        logger.info("this shard is drawn; when all are, the same command without --shard joins them")
        return None
    return comparison.ranks.led(lambda: _told(comparison, methods, cells, options, f"{what}."))


def _told(
    comparison: Comparison,
    methods: Sequence[Method],
    cells: Sequence[Sequence[Mapping[str, Any]]],
    options: Comparing,
    lead: str,
) -> Table:
    """Judge what is no row of the protocol, and write all files."""
    protocol, folder = comparison.protocol, comparison.store.folder
    result = result_of(comparison, methods, cells, options.images, options.changes.get("samples"))
    table = result.table
    drawn = [row.name for row in table.rows if row.kind != "real"]
    title = drawn[0] if len(drawn) == 1 else "Quality and cost"
    facts = {"command": options.command, "protocol": f"{protocol.name} ({table.protocol['digest']})"}
    publish(result, folder, title=title, lead=lead, facts=facts)
    Console().print(table.rich())
    logger.info("report: {}", folder.path("report.html"))
    if not any(row.metrics for row in table.rows if row.kind != "real"):
        raise UsageError(f"there are no numbers: {'; '.join(table.notes) or 'the protocol has no metrics'}")
    return table
