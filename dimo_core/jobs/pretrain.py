"""``dimo pretrain``: train a masked diffusion teacher on images, and write it as a teacher folder."""

import hashlib
import json
from contextlib import ExitStack
from typing import Any

import attrs
import torch
from loguru import logger

from dimo_core.config.folders import CONFIG
from dimo_core.config.pretrain import PretrainJob
from dimo_core.data.feeds import CachedFeed, TokenFeed
from dimo_core.data.token_cache import EncodedExamples, TokenCache
from dimo_core.data.token_encoding import encoded
from dimo_core.engine.launcher import joined
from dimo_core.engine.loop import Engine
from dimo_core.engine.ranks import Ranks
from dimo_core.errors import UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import versions
from dimo_core.files.owner import owned
from dimo_core.jobs.distil import log_file, open_run_folder
from dimo_core.jobs.results import RunRows, write_table
from dimo_core.objective import Ingredients
from dimo_core.registry import Registry, built
from dimo_core.settings import Evaluate
from dimo_core.sources import Examples
from dimo_core.teacher import Teacher

PLACES = ("out", "device", "tokens")
"""Options that say where, and not what."""


def pretrain(job: PretrainJob, *, resume: bool = False, registry: Registry | None = None) -> Folder:
    """Train a teacher.

    Args:
        job: What to do.
        resume: Continue the run in ``job.out`` from its newest whole checkpoint.
        registry: The plugins that the data's evaluation plan names; discovered when None.

    Returns:
        The teacher folder, ``<out>/teacher``.

    Raises:
        UsageError: when the run folder is not empty and this is no resumption, data and teacher do not fit,
            too many images are broken, or the token cache is one of other data.
        Interrupted: after a signal, with the encoded shards or the state of training saved.
    """
    with ExitStack() as stack:
        ranks, device = stack.enter_context(joined(job.device, job.train.shards))
        opened = open_run_folder(job.out, job.config, resume=resume)
        folder = stack.enter_context(ranks.folder(opened))
        job, encoding = attrs.evolve(job, out=folder.url), stack.enter_context(ExitStack())
        return _pretrain(job, folder, encoding, registry or Registry.discover(), resume, ranks, device)


def _pretrain(
    job: PretrainJob,
    folder: Folder,
    encoding: ExitStack,
    plugins: Registry,
    resume: bool,
    ranks: Ranks,
    device: torch.device,
) -> Folder:
    if job.objective.needs != {"data"}:
        raise UsageError(
            f"`dimo pretrain` feeds data only; objective {type(job.objective).__name__} needs more"
        )
    split, cache = job.data.splits()[0], _cache(job, folder, encoding)
    examples = cache.examples() if cache is not None else job.data.load(split)
    plan = job.data.evaluation()
    teacher = job.teacher_class.create(job.model, examples, evaluation=plan, seed=job.seed).on(device)
    objective = job.objective.build(Ingredients(teacher=teacher))
    folder.write_yaml(CONFIG, dict(job.config))
    with log_file(folder):
        feed: TokenFeed | CachedFeed
        if cache is None:
            feed = TokenFeed(teacher, job.data, examples, seed=job.seed, device=device)
        else:
            tokens = _encoded(cache, teacher, examples, ranks, device)
            feed = CachedFeed(teacher=teacher, examples=tokens, seed=job.seed, device=device)
        encoding.close()
        origin = {"frozen": {"data": _digest(examples)}, "plugins": plugins.versions(job.config)}
        how: Any = {"folder": folder, "seed": job.seed, "device": device, "origin": origin, "ranks": ranks}
        engine = Engine(objective, feed, job.train, **how)
        if resume and engine.resume():
            logger.info("resuming {} at step {}", job.out, engine.step)
        count = sum(p.numel() for p in engine.states["teacher"].module.parameters())
        logger.info(
            "pretraining {} parameters on {} images into {} on {}", count, len(feed.examples), job.out, device
        )
        engine.run()
        with engine.states["teacher"].averaged():
            network: Any = ranks.copied(engine.states["teacher"].module, teacher.skeleton).eval()
            if (plan := teacher.evaluation()) is not None:
                conditions = built(plugins, "conditions", plan.conditions, plan.whose(teacher))
                how = {"conditions": conditions, "settings": Evaluate(), "seed": job.seed, "ranks": ranks}
                rows = RunRows.of(teacher, plan, plugins, **how, device=device)
                write_table(rows.table(None, network), folder)
            recipe = {name: value for name, value in job.config.items() if name not in PLACES}
            card: dict[str, Any] = {"pretraining": recipe, "versions": versions()}
            ranks.led(lambda: teacher.save(folder.path("teacher"), network, card))
        logger.info("teacher written: use it with --teacher.checkpoint {}", folder.path("teacher"))
    return folder.sub("teacher")


def _digest(examples: Examples) -> str:
    """The SHA-256 of training images with their conditions."""
    digest = hashlib.sha256(json.dumps([examples.classes, examples.conditions()]).encode())
    for image in examples.images:
        digest.update(image.contiguous().numpy())
    return digest.hexdigest()


def _encoded(
    cache: TokenCache, teacher: Teacher, examples: Examples, ranks: Ranks, device: torch.device
) -> EncodedExamples:
    """The tokens of a cache, which the first process fills."""
    mine: list[EncodedExamples] = []

    def fill() -> None:
        cache.begin(teacher, examples)
        mine.append(encoded(cache, teacher, device))

    ranks.led(fill)
    return mine[0] if mine else TokenCache(cache.folder, cache.data, cache.split).load()


def _cache(job: PretrainJob, folder: Folder, encoding: ExitStack) -> TokenCache | None:
    """The token cache of data that are streamed, owned while it is unfinished; None for data in memory."""
    if job.data.streams and not job.data.augments:
        place = Folder(job.tokens) if job.tokens else folder.sub("tokens")
        cache = TokenCache(place, job.data, job.data.splits()[0])
        if cache.finished:
            return cache
        if folder.mute:
            return cache
        place = encoding.enter_context(owned(place.url))
        return TokenCache(place, job.data, job.data.splits()[0])  # another may have begun it meanwhile
    if job.tokens:
        raise UsageError(
            f"--tokens is for data that are streamed and not augmented; {type(job.data).__name__} are encoded"
            " in memory. Leave it out."
        )
    return None
