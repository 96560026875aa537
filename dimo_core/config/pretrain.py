"""From names and options to the job of a pretraining; see ``dimo_core.config.distil`` for distillation."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from dimo_core.config.distil import DEFAULTS, Common
from dimo_core.config.draft import Draft, Section, choose, complete, group, next_folder
from dimo_core.config.layers import Context, Layer, from_mapping
from dimo_core.errors import ConfigError
from dimo_core.objective import ObjectiveOptions
from dimo_core.registry import Registry
from dimo_core.settings import Train
from dimo_core.sources import Data
from dimo_core.teacher import Teacher


@attrs.frozen(kw_only=True)
class Own(Common):
    """Options of a pretraining that belong to no section.

    Attributes:
        seed: Seed of weights, tokenizer and draws.
        tokens: Folder or URL of the token cache, for data that are streamed; ``tokens`` in the run folder
            when null. A finished cache of the same data and tokenizer is used as it is.
    """

    tokens: str | None = None


@attrs.frozen(kw_only=True)
class PretrainJob(Own):
    """Everything ``dimo pretrain`` needs, validated, before any data is read.

    Attributes:
        config: The resolved configuration as plain data, which rebuilds this job.
        teacher_class: The teacher to create; its class, because nothing of it exists yet.
        model: An instance of the class's ``pretraining_options``: architecture and tokenizer.
        data: Training images with conditions.
        objective: What is trained.
        train: Length and precision.
        out: Run folder, a path or fsspec URL.
    """

    config: Mapping[str, Any]
    teacher_class: type[Teacher]
    model: Any
    data: Data
    objective: ObjectiveOptions
    train: Train = attrs.field(factory=Train)
    out: str


KEYS = ("teacher", "model", "data", "objective", "train", *(field.name for field in attrs.fields(Own)))
"""Top-level keys of the configuration; ``model`` holds the teacher class's ``pretraining_options``."""


def resolve_pretraining(
    overrides: Mapping[str, Any] | None = None, registry: Registry | None = None
) -> PretrainJob:
    """Everything that a pretraining needs.

    Args:
        overrides: The shape of a config file; ``data`` and ``objective`` may also be finished objects.
        registry: The installed plugins; discovered when None.

    Raises:
        ConfigError: for wrong options, all of them in one message.
        UnknownNameError: for a plugin that does not exist.
        PluginError: for a plugin that cannot be used.
    """
    layer = from_mapping(overrides or {}, "the arguments")
    context = Context(registry=registry or Registry.discover())
    return pretraining_of(draft_pretraining([layer], context))


def draft_pretraining(layers: Sequence[Layer], context: Context) -> Draft:
    """Sections and values of a pretraining.

    Args:
        layers: From the lowest to the highest precedence.
        context: Registry and mistakes.
    """
    chosen = choose("teacher", DEFAULTS["teacher"], layers, context)
    sections: list[Section | None] = []
    if chosen is not None:
        sections.append(Section(key="teacher", name=chosen.name, cls=None))
        options = getattr(chosen.cls, "pretraining_options", None)
        if options is None:
            context.report(ConfigError(f"{chosen.title} cannot be pretrained. Choose another --teacher."))
        else:
            sections.append(group("model", options, layers, context))
    for kind, default in (("data", "digits"), ("objective", "masked-modelling")):
        sections.append(choose(kind, default, layers, context))
    sections += [group("train", Train, layers, context), Section(key="", cls=Own)]
    return complete(sections, layers, context, KEYS)


def pretraining_of(draft: Draft) -> PretrainJob:
    """The pretraining job of a draft.

    Raises:
        DimoError: for all mistakes of the draft.
    """
    made = draft.make()
    del made["teacher"]
    name, data = (draft.sections[key].name for key in ("teacher", "data"))
    made["teacher_class"] = draft.context.registry.load("teacher", name)
    made["out"] = made["out"] or next_folder("pretrain", name, data)
    return PretrainJob(**made)
