"""``dimo pretrain``: train a masked diffusion teacher on images, and write it as a teacher folder."""

from contextlib import ExitStack
from shlex import quote
from typing import Any

import attrs
import torch
from loguru import logger

from dimo_core.config.pretrain import PretrainJob
from dimo_core.engine.launcher import joined
from dimo_core.engine.loop import Engine
from dimo_core.engine.ranks import Ranks
from dimo_core.errors import UsageError
from dimo_core.files.folder import CONFIG, Folder
from dimo_core.files.generator_folder import versions
from dimo_core.jobs.distil import log_file, open_run_folder
from dimo_core.jobs.results import RunRows, write_table
from dimo_core.jobs.training_data import training_data
from dimo_core.objective import Ingredients
from dimo_core.registry import Registry, built
from dimo_core.settings import Evaluate

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
        job = attrs.evolve(job, out=folder.url)
        return _pretrain(job, folder, registry or Registry.discover(), resume, ranks, device)


def _pretrain(
    job: PretrainJob,
    folder: Folder,
    plugins: Registry,
    resume: bool,
    ranks: Ranks,
    device: torch.device,
) -> Folder:
    if job.objective.needs != {"data"}:
        raise UsageError(
            f"`dimo pretrain` feeds data only; objective {type(job.objective).__name__} needs more"
        )
    plan = job.data.evaluation()
    with log_file(folder):
        with training_data(job.data, job.tokens, folder, ranks) as given:
            create = job.teacher_class.create
            teacher = create(job.model, given.examples, evaluation=plan, seed=job.seed).on(device)
            objective = job.objective.build(Ingredients(teacher=teacher))
            folder.write_yaml(CONFIG, dict(job.config))
            feed = given.feed(teacher, seed=job.seed, device=device)
        origin = {"frozen": {"data": given.digest()}, "plugins": plugins.versions(job.config)}
        how: Any = {"folder": folder, "seed": job.seed, "device": device, "origin": origin, "ranks": ranks}
        engine = Engine(objective, {"data": feed}, job.train, **how)
        if resume and engine.resume():
            logger.info("resuming {} at step {}", job.out, engine.step)
        count = sum(p.numel() for p in engine.states["teacher"].module.parameters())
        logger.info(
            "pretraining {} parameters on {} examples into {} on {}",
            count,
            len(feed.examples),
            job.out,
            device,
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
        logger.info("teacher written: use it with --teacher.checkpoint {}", quote(folder.path("teacher")))
    return folder.sub("teacher")
