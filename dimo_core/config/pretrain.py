"""From names and options to the job of a pretraining; see ``dimo_core.config.distil`` for distillation."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from attrs import validators as v
from loguru import logger

from dimo_core.config.distil import SCALARS as COMMON
from dimo_core.config.draft import Draft, choose, complete, finish, group, next_folder, scalar_options
from dimo_core.config.layers import Layer, from_mapping
from dimo_core.config.sections import Context, Section
from dimo_core.errors import ConfigError
from dimo_core.objective import ObjectiveOptions
from dimo_core.registry import Registry
from dimo_core.settings import Train
from dimo_core.sources import Data
from dimo_core.teacher import Teacher


@attrs.frozen(kw_only=True)
class PretrainJob:
    """Everything ``dimo pretrain`` needs, validated, before any data is read.

    Attributes:
        config: The resolved configuration as plain data, which rebuilds this job.
        teacher_class: The teacher to create; its class, because nothing of it exists yet.
        model: An instance of the class's ``pretraining_options``: architecture and tokenizer.
        data: Training images with conditions.
        objective: What is trained.
        train: Length and precision.
        seed: Seed of weights, tokenizer and draws.
        out: Run folder, a path or fsspec URL.
        device: ``auto``, or a torch device.
        tokens: Folder or URL of the token cache, for data that are streamed; ``tokens`` in the run folder
            when null. A finished cache of the same data and tokenizer is used as it is.
    """

    config: Mapping[str, Any]
    teacher_class: type[Teacher]
    model: Any
    data: Data
    objective: ObjectiveOptions
    train: Train = attrs.field(factory=Train)
    seed: int = attrs.field(default=0, validator=v.ge(0))
    out: str
    device: str = "auto"
    tokens: str | None = None


DEFAULTS: Mapping[str, str] = {"teacher": "maskgit", "data": "digits", "objective": "masked-modelling"}
"""Plugins of a pretraining, by registry name, when nobody chooses others."""

SCALARS = (*COMMON, "tokens")
"""Options that belong to no section."""

KEYS = ("teacher", "model", "data", "objective", "train", *SCALARS)
"""Top-level keys of the configuration; ``model`` holds the teacher class's ``pretraining_options``."""


def resolve_pretraining(
    overrides: Mapping[str, Any] | None = None,
    registry: Registry | None = None,
    *,
    layers: Sequence[Layer] = (),
) -> PretrainJob:
    """Everything that a pretraining needs.

    Args:
        overrides: The shape of a config file; ``data`` and ``objective`` may also be finished objects.
        registry: The installed plugins; discovered when None.
        layers: Further sources below ``overrides``, from the lowest to the highest.

    Raises:
        ConfigError: for wrong options, all of them in one message.
        UnknownNameError: for a plugin that does not exist.
        PluginError: for a plugin that cannot be used.
    """
    layer = from_mapping(overrides or {}, "the arguments")
    return pretraining_of(draft_pretraining([*layers, layer], registry or Registry.discover()))


def draft_pretraining(layers: Sequence[Layer], registry: Registry, *, short: Sequence[str] = ()) -> Draft:
    """Sections and values of a pretraining.

    Args:
        layers: From the lowest to the highest precedence.
        registry: The installed plugins.
        short: Short forms on the command line, for near matches.
    """
    context = Context(registry=registry, short=short)
    chosen = choose("teacher", DEFAULTS["teacher"], layers, context)
    sections: list[Section | None] = []
    if chosen is not None:
        sections = [Section(key="teacher", name=chosen.name, cls=None), _model(chosen, layers, context)]
    sections += [choose(kind, DEFAULTS[kind], layers, context) for kind in ("data", "objective")]
    sections.append(group("train", Train, layers, context))
    return complete(sections, scalar_options(PretrainJob, SCALARS), layers, context, KEYS)


def _model(teacher: Section, layers: Sequence[Layer], context: Context) -> Section | None:
    options = getattr(teacher.cls, "pretraining_options", None)
    if options is None:
        context.problems.add(ConfigError(f"{teacher.title} cannot be pretrained. Choose another --teacher."))
        return None
    return group("model", options, layers, context)


def pretraining_of(draft: Draft) -> PretrainJob:
    """The pretraining job of a draft.

    Raises:
        DimoError: for all mistakes of the draft.
    """
    made = draft.make()
    for note in draft.context.notes:
        logger.warning(note)
    config = draft.config(made)
    names = {key: section.name for key, section in draft.sections.items()}
    del made["teacher"]
    made["teacher_class"] = draft.context.registry.load("teacher", names["teacher"])
    out = made["out"] or next_folder("pretrain", names["teacher"], names["data"])
    job: PretrainJob = finish(PretrainJob, made | {"config": config, "out": out}, draft)
    return job
