"""``dimo sample``: pictures or lines from a generator folder, or from a teacher."""

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any

import torch
from loguru import logger

from dimo_core.conditions import KINDS
from dimo_core.config.distil import DEFAULTS
from dimo_core.config.layers import from_mapping
from dimo_core.device import noted
from dimo_core.engine.launcher import joined
from dimo_core.errors import UsageError
from dimo_core.evaluation.drawing import SITES, Drawing, Opened, Shard, identity
from dimo_core.evaluation.store import Drawn
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import CARD, generator_folder, load_generator, read_card
from dimo_core.files.prompts import PromptSet
from dimo_core.files.weights import sha256
from dimo_core.generator import Generator
from dimo_core.jobs.sample_files import SampleFiles, Wanted, open_folder
from dimo_core.registry import Registry, built
from dimo_core.sampler import TeacherSampling
from dimo_core.settings import Precision
from dimo_core.sources import Conditions
from dimo_core.suggestions import Choice, Sampling
from dimo_core.teacher import Teacher
from dimo_core.texts import passes_of, steps_of

BLOCK = 64
"""Samples whose random numbers are drawn together: neither batch size nor count changes a sample."""


def sample_folder(
    path: str,
    *,
    count: int = 64,
    conditions: Sequence[str] | PromptSet | None = None,
    temperature: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    out: str | None = None,
    device: str = "auto",
    precision: Precision = "fp32",
    batch_size: int = BLOCK,
) -> list[str]:
    """Draw samples of a trained generator, in one or a few steps, into a new folder.

    Images become ``00000.png``, ``00001.png`` ... in their own size, or lie as the layout of a ``PromptSet``
    asks, and ``grid.png``; tokens and text become the lines of ``samples.txt``. ``samples.jsonl`` holds file,
    condition, seed, forward passes and tokens of each sample, and comes last. Sample i with its condition is
    the same for any count and, up to rounding, any batch size. When this is stopped, the same call goes on
    where it was. Where a launcher started several processes, all of them call this, and share the batches.

    Args:
        path: A generator folder, or a run folder with one.
        count: Number of samples; a ``PromptSet`` has its own.
        conditions: Class names, indices or prompts, used in turn; None: all classes; or a ``PromptSet``.
        temperature: Divides the logits; None takes the generator's own.
        steps: Steps of a sample; None takes the generator's own.
        seed: Seed of the draws.
        out: Where to write: empty, missing, or with the first part of these samples; None for the folder
            ``drawn`` beside the generator's.
        device: ``auto``, or a torch device.
        precision: How the networks compute that draw: ``fp32``, ``tf32`` or ``bf16``.
        batch_size: Samples drawn at a time; at most 64, and at most 32,768 tokens.

    Returns:
        The written files.

    Raises:
        Interrupted: for Ctrl-C; what is drawn stays.
        UsageError: when there is no generator, ``out`` holds something else, or an argument is impossible.
        CheckpointError: when the generator is damaged.
    """
    source = generator_folder(path)
    parent, slash, _ = source.url.rpartition("/")
    with ExitStack() as stack:
        ranks, where = stack.enter_context(joined(device))
        folder = stack.enter_context(ranks.folder(open_folder(out or f"{parent}{slash}drawn")))
        teacher, generator, known = ranks.agreed(lambda: _loaded(source, where, temperature, steps))
        files = SampleFiles(
            folder=folder,
            drawing=_drawing(teacher, seed, where, precision, batch_size),
            wanted=ranks.agreed(lambda: Wanted.of(teacher.conditioning, known, conditions, count)),
            model={"generator": sha256(source.read(CARD)), "sampling": dict(generator.sampling())},
            facts={"seed": seed, **noted(precision)},
            ranks=ranks,
        )
        ranks.led(files.claim)
        logger.info("a sample takes {}, {}", steps_of(generator.steps), passes_of(generator.passes))
        ranks.agreed(lambda: deque(files.draw(Opened.generator(generator)), maxlen=0))
        return ranks.led(files.finish)


def sample_teacher(
    teacher: Teacher,
    sampling: str | Sampling | TeacherSampling | None = None,
    *,
    count: int = 64,
    conditions: Sequence[str] | PromptSet | None = None,
    seed: int = 0,
    out: str | None = None,
    device: str = "auto",
    precision: Precision = "fp32",
    batch_size: int = BLOCK,
) -> Drawn:
    """Draw samples of a teacher in many steps, into memory and, if wanted, into a new folder.

    The files are those of ``sample_folder``; ``samples.jsonl`` also tells sampling, steps, sampler, guidance
    and forward passes. Sample i with its condition is the same for any count and, up to rounding, any batch
    size. Where a launcher started several processes, all of them call this, and share the batches.

    Args:
        teacher: The teacher.
        sampling: One of ``teacher.samplings()`` by name, or any other, such as
            ``attrs.evolve(teacher.samplings()["v1.0"], steps=4)``; None for the teacher's first one, or,
            where it has none, for what its evaluation plan says.
        count, conditions, seed, device, precision, batch_size: As for ``sample_folder``.
        out: Where to write: empty, missing, or with the first part of these samples; None writes nothing.

    Returns:
        Tokens, forward passes a sample, and seconds of what was drawn now; images, where the teacher decodes
        them and they are not written to ``out``.

    Raises:
        Interrupted: for Ctrl-C; what is written to ``out`` stays.
        UsageError: when ``out`` holds something else, or a name, a condition or the device is impossible.
        CheckpointError: when the teacher's weights are missing or damaged.
    """
    with ExitStack() as stack:
        ranks, where = stack.enter_context(joined(device))
        folder = None if out is None else stack.enter_context(ranks.folder(open_folder(out)))

        def prepared() -> tuple[Drawing, Wanted, Opened, TeacherSampling]:
            used, way = teacher.on(where), _way(teacher, sampling)
            wanted = Wanted.of(used.conditioning, _source(used), conditions, count)
            opened = Opened.teacher(used, used.network().to(where), way)
            return _drawing(used, seed, where, precision, batch_size), wanted, opened, way

        drawing, wanted, opened, way = ranks.agreed(prepared)
        if folder is None:
            return Drawn.joined(ranks.gathered(drawing.batches(wanted.raw, opened, Shard.mine(ranks))))
        files = SampleFiles(
            folder=folder,
            drawing=drawing,
            wanted=wanted,
            model=identity(drawing.teacher),
            facts={"seed": seed, **noted(precision), **way.as_dict()},
            ranks=ranks,
        )
        ranks.led(files.claim)
        drawn = Drawn.joined(ranks.gathered(files.draw(opened)))
        ranks.led(files.finish)
        return drawn


def _loaded(
    source: Folder, device: torch.device, temperature: float | None, steps: int | None
) -> tuple[Teacher, Generator, Conditions | None]:
    """A generator with its teacher, and what reads its conditions."""
    teacher, generator = load_generator(source.url, device, temperature=temperature, steps=steps)
    teacher = teacher.on(device)
    return teacher, generator, _source(teacher, read_card(source))


def conditions_of(
    teacher: Teacher, card: Mapping[str, Any], given: Sequence[str] | None, count: int
) -> Sequence[Any]:
    """So many raw conditions for a generator of this card: those that are given, in turn, or evenly spread.

    Args:
        teacher: The generator's.
        card: ``generator.yaml``.
        given: Class names, indices or prompts; None for some of those that its source has.
        count: How many.

    Raises:
        UsageError: for one that the teacher does not take, or when there are none.
    """
    return Wanted.of(teacher.conditioning, _source(teacher, card), given, count).raw


def _way(teacher: Teacher, sampling: str | Sampling | TeacherSampling | None) -> TeacherSampling:
    if isinstance(sampling, TeacherSampling):
        return sampling
    if isinstance(sampling, Sampling):
        return TeacherSampling.of(sampling, Registry.discover())
    return TeacherSampling.named(teacher, sampling, Registry.discover())


def _source(teacher: Teacher, card: Mapping[str, Any] = MappingProxyType({})) -> Conditions | None:
    """The source of conditions that a generator was trained with, or that its teacher suggests, if any."""
    section = card.get("conditions") or _suggested(teacher)
    try:
        return built(Registry.discover(), "conditions", Choice.from_dict(section)) if section else None
    except UsageError:  # such as prompts, of which only a run says where they are
        if teacher.conditioning.kind in KINDS:
            return None
        raise


def _suggested(teacher: Teacher) -> Any:
    """The section ``conditions`` of the teacher's first recipe, else of its evaluation plan, if any."""
    plan, recipe = teacher.evaluation(), next(iter(teacher.recipes().values()), {})
    own = None if plan is None else plan.conditions
    assumed = {"conditions": DEFAULTS["conditions"] if own is None else own.name}
    layer = from_mapping(recipe, f"the first recipe of teacher {type(teacher).__name__}", assumed)
    return layer.data.get("conditions") or own


def _drawing(
    teacher: Teacher, seed: int, device: torch.device, precision: Precision, batch_size: int
) -> Drawing:
    return Drawing(
        teacher=teacher,
        seed=seed,
        phase="sample",
        device=device,
        precision=precision,
        batch_size=max(1, min(batch_size, BLOCK, SITES // teacher.tokens.length)),
        block=BLOCK,
    )
