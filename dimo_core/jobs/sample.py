"""``dimo sample``: pictures or lines from a generator folder, or from a teacher."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from loguru import logger
from torch import nn

from dimo_core.conditions import Condition, Conditioning, raw_conditions
from dimo_core.device import find_device
from dimo_core.draws import Draws
from dimo_core.errors import Interrupted, UsageError
from dimo_core.evaluation.drawing import Draw, Drawing, Drawn, DrawnBatch, joined
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import CARD, load_generator
from dimo_core.files.prompts import PromptSet
from dimo_core.files.weights import sha256
from dimo_core.generator import Generator
from dimo_core.jobs.sample_files import SampleFiles, Unfinished
from dimo_core.registry import Registry
from dimo_core.sampler import Sampled, TeacherSampling, described
from dimo_core.suggestions import Sampling
from dimo_core.teacher import Teacher

BLOCK = 64
"""Samples whose random numbers are drawn together: neither batch size nor count changes a sample."""

SITES = 2**15
"""The most tokens that are drawn at a time: 64 samples of 512 tokens, 8 of 4096."""


def sample_folder(
    path: str,
    *,
    count: int = 64,
    conditions: Sequence[str] | PromptSet | None = None,
    temperature: float | None = None,
    seed: int = 0,
    out: str | None = None,
    device: str = "auto",
    batch_size: int = BLOCK,
) -> list[str]:
    """Draw one-step samples of a trained generator into a new folder.

    Images become ``00000.png``, ``00001.png`` ... in their own size, or lie as the layout of a ``PromptSet``
    asks, and ``grid.png``; tokens and text become the lines of ``samples.txt``. ``samples.jsonl`` holds file,
    condition, seed and tokens of each sample.
    Sample i with its condition is the same for any count and, up to rounding, any batch size. When this is
    stopped, the same call goes on where it was; ``samples.jsonl`` comes last.

    Args:
        path: A generator folder, or a run folder with one.
        count: Number of samples; a ``PromptSet`` has its own.
        conditions: Class names, class indices or prompts, used in turn; None for all classes in turn; or a
            ``PromptSet``.
        temperature: Divides the logits; None takes the generator's own.
        seed: Seed of the draws.
        out: Where to write: empty, missing, or with the first part of these samples; None for the folder
            ``drawn`` beside the generator's.
        device: ``auto``, or a torch device.
        batch_size: Samples drawn at a time; at most 64, and at most 32,768 tokens.

    Returns:
        The written files.

    Raises:
        Interrupted: for Ctrl-C; what is drawn stays.
        UsageError: when ``out`` holds something else, or a condition, the temperature or the device is
            impossible.
        CheckpointError: when ``path`` holds no whole generator.
    """
    source = Folder(path)
    if not source.exists(CARD) and source.exists("generator", CARD):
        source = source.sub("generator")
    state, where = Unfinished.open(out or _beside(source)), find_device(device)
    teacher, generator = _load(source.url, where, temperature)
    teacher = teacher.on(where)
    wanted = _wanted(teacher.conditioning, conditions, count)

    def draw(c: Condition, draws: Draws) -> Sampled:
        return Sampled(tokens=generator.sample(c, draws), passes=1)

    drawing = _drawing(teacher, seed, where, batch_size)
    files = SampleFiles(state, drawing, wanted.raw, wanted.files, {"seed": seed})
    card = sha256(source.read(CARD)) if source.exists(CARD) else source.url
    model = {"generator": card, "sampling": dict(generator.sampling())}
    for _ in _each(files, wanted, draw, generator, model):
        pass
    return files.finish(wanted.extras)


def sample_teacher(
    teacher: Teacher,
    sampling: str | Sampling | TeacherSampling | None = None,
    *,
    count: int = 64,
    conditions: Sequence[str] | PromptSet | None = None,
    seed: int = 0,
    out: str | None = None,
    device: str = "auto",
    batch_size: int = BLOCK,
) -> Drawn:
    """Draw samples of a teacher in many steps, into memory and, if wanted, into a new folder.

    The files are those of ``sample_folder``; ``samples.jsonl`` also tells sampling, steps, sampler, guidance
    and forward passes. Sample i with its condition is the same for any count and, up to rounding, any batch
    size.

    Args:
        teacher: The teacher.
        sampling: One of ``teacher.samplings()`` by name, or any other, such as
            ``attrs.evolve(teacher.samplings()["v1.0"], steps=4)``; the teacher's first one when None.
        count: Number of samples; a ``PromptSet`` has its own.
        conditions: Class names, class indices or prompts, used in turn; None for all classes in turn; or a
            ``PromptSet``.
        seed: Seed of the draws.
        out: Where to write: empty, missing, or with the first part of these samples; None writes nothing.
        device: ``auto``, or a torch device.
        batch_size: Samples drawn at a time; at most 64, and at most 32,768 tokens.

    Returns:
        Tokens, forward passes a sample, and seconds of what was drawn now; images, where the teacher decodes
        them and they are not written to ``out``.

    Raises:
        Interrupted: for Ctrl-C; what is written to ``out`` stays.
        UsageError: when ``out`` holds something else, or a name, a condition or the device is impossible.
        CheckpointError: when the teacher's weights are missing or damaged.
    """
    state = None if out is None else Unfinished.open(out)
    where = find_device(device)
    teacher, way = teacher.on(where), _way(teacher, sampling)
    wanted = _wanted(teacher.conditioning, conditions, count)
    network = teacher.network().to(where)

    def draw(c: Condition, draws: Draws) -> Sampled:
        return way.draw(teacher, network, c, draws)

    drawing = _drawing(teacher, seed, where, batch_size)
    if state is None:
        return drawing.draw(wanted.raw, draw, network)
    files = SampleFiles(state, drawing, wanted.raw, wanted.files, {"seed": seed, **way.as_dict()})
    model = {"teacher": described(teacher), "parts": dict(teacher.provenance())}
    batches = list(_each(files, wanted, draw, network, model))
    files.finish(wanted.extras)
    return joined(batches)


def _way(teacher: Teacher, sampling: str | Sampling | TeacherSampling | None) -> TeacherSampling:
    if isinstance(sampling, TeacherSampling):
        return sampling
    if isinstance(sampling, Sampling):
        return TeacherSampling.of(sampling, Registry.discover())
    return TeacherSampling.named(teacher, sampling, Registry.discover())


@attrs.frozen(kw_only=True)
class _Wanted:
    """What is to be drawn: the condition and the picture of each sample, and further files."""

    raw: Sequence[Any]
    files: Sequence[str]
    extras: Mapping[str, bytes]


def _wanted(conditioning: Conditioning, conditions: Sequence[str] | PromptSet | None, count: int) -> _Wanted:
    if not isinstance(conditions, PromptSet):
        raw = raw_conditions(conditioning, conditions, count)
        return _Wanted(raw=raw, files=[f"{i:05d}.png" for i in range(count)], extras={})
    texts = conditions.conditions()
    raw = raw_conditions(conditioning, texts, len(texts))
    return _Wanted(raw=raw, files=conditions.files(), extras=conditions.extras())


def _each(
    files: SampleFiles, wanted: _Wanted, draw: Draw, network: nn.Module, model: Mapping[str, Any]
) -> Iterator[DrawnBatch]:
    """All batches, without their pictures; those that are not there yet are drawn and written.

    Raises:
        Interrupted: for Ctrl-C.
        UsageError: when the folder holds samples of another request.
    """
    known, done, count = 0, 0, len(wanted.raw)
    for batch in files.begin(model):
        known, done = known + 1, done + len(batch.tokens)
        yield batch
    if known:
        logger.info("{} of {} samples are there already", done, count)
    try:
        for batch in files.drawing.batches(wanted.raw, draw, network, done=known):
            files.take(batch)
            done += len(batch.tokens)
            logger.log("INFO" if done < count else "DEBUG", "{} of {} samples", done, count)
            yield attrs.evolve(batch, images=None)
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped after {done} of {count} samples. The same command with --out {files.folder.url} draws "
            "the rest."
        ) from None


def _drawing(teacher: Teacher, seed: int, device: torch.device, batch_size: int) -> Drawing:
    return Drawing(
        teacher=teacher,
        seed=seed,
        phase="sample",
        device=device,
        batch_size=max(1, min(batch_size, BLOCK, SITES // teacher.tokens.length)),
        block=BLOCK,
    )


def _load(path: str, device: torch.device, temperature: float | None) -> tuple[Teacher, Generator]:
    if temperature is None:
        return load_generator(path, device)
    if not temperature > 0:
        raise UsageError(
            f"temperature must be above 0, got {temperature}. Small values take the likeliest code."
        )
    teacher, generator = load_generator(path, device, options={"temperature": temperature})
    if generator.sampling().get("temperature") != temperature:
        raise UsageError(f"{type(generator).__name__} has no sampling temperature. Leave --temperature out.")
    return teacher, generator


def _beside(generator: Folder) -> str:
    parent, slash, _ = generator.url.rpartition("/")
    return f"{parent}{slash}drawn"
