"""From names and options to a way of sampling a teacher; see ``dimo_core.config.distil`` for distillation.

Precedence, option by option: command line (or Python arguments) > config files > environment > the teacher's
named sampling > plugin default.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from loguru import logger

from dimo_core.config.distil import first_look, suggestion
from dimo_core.config.draft import Draft, choose, complete, finish
from dimo_core.config.layers import Layer, from_mapping
from dimo_core.config.sections import Context, Section
from dimo_core.errors import DimoError
from dimo_core.options import Option, options_of
from dimo_core.registry import Registry
from dimo_core.sampler import TeacherSampling, find
from dimo_core.suggestions import Sampling
from dimo_core.teacher import Teacher

DEFAULTS: Mapping[str, str] = {"teacher": "maskgit", "sampler": "maskgit", "guidance": "constant"}
"""Plugins by registry name, when neither the teacher nor anybody else chooses others."""

KEYS = ("sampling", *DEFAULTS, "steps")
"""Top-level keys of the configuration."""

STEPS = 16
"""Steps of a teacher that suggests none."""


@attrs.frozen(kw_only=True)
class SamplingJob:
    """What ``dimo sample --teacher`` draws from.

    Attributes:
        config: The resolved configuration as plain data, which rebuilds this job.
        teacher: The teacher.
        sampling: Steps, sampler and guidance; its name tells when options were changed.
    """

    config: Mapping[str, Any]
    teacher: Teacher
    sampling: TeacherSampling


@attrs.frozen(kw_only=True)
class SamplingDraft:
    """A draft, and what its teacher names.

    Attributes:
        draft: Sections and values; its presets are the samplings.
        samplings: The teacher's samplings, in its order.
    """

    draft: Draft
    samplings: Mapping[str, Sampling]


def resolve_sampling(
    overrides: Mapping[str, Any] | None = None,
    registry: Registry | None = None,
    *,
    layers: Sequence[Layer] = (),
) -> SamplingJob:
    """A teacher and a way of sampling it.

    Args:
        overrides: The shape of a config file, with the keys ``KEYS``; plugins may be finished objects.
        registry: The installed plugins; discovered when None.
        layers: Further sources below ``overrides``, from the lowest to the highest.

    Raises:
        ConfigError: for wrong options, all of them in one message.
        UnknownNameError: for a plugin or sampling that does not exist.
        PluginError: for a plugin that cannot be used.
    """
    layer = from_mapping(overrides or {}, "the arguments")
    return sampling_of(draft_sampling([*layers, layer], registry or Registry.discover()))


def draft_sampling(
    layers: Sequence[Layer], registry: Registry, *, short: Sequence[str] = ()
) -> SamplingDraft:
    """Sections and values of sampling a teacher.

    Args:
        layers: From the lowest to the highest precedence.
        registry: The installed plugins.
        short: Short forms on the command line, for near matches.
    """
    context = Context(registry=registry, short=short)
    chosen = choose("teacher", DEFAULTS["teacher"], layers, context)
    wanted = next((layer.data["sampling"] for layer in reversed(layers) if layer.data.get("sampling")), None)
    name, samplings = None, {}
    if chosen is not None and (teacher := first_look(chosen, layers, context)) is not None:
        try:
            samplings = dict(teacher.samplings())
            name = next(iter(samplings), None) if wanted is None else str(wanted)
            layers = [*_base(chosen, teacher, samplings, name), *layers]
        except DimoError as error:
            context.problems.add(error)
    sections = [chosen, *(choose(kind, DEFAULTS[kind], layers, context) for kind in ("sampler", "guidance"))]
    draft = complete(sections, _scalars(name), layers, context, KEYS)
    return SamplingDraft(
        draft=attrs.evolve(draft, preset=name, presets=tuple(samplings)), samplings=samplings
    )


def _base(
    section: Section, teacher: Teacher, samplings: Mapping[str, Sampling], name: str | None
) -> list[Layer]:
    """What the teacher suggests: the named sampling, or else its evaluation's way in the most steps."""
    plan, origin = teacher.evaluation(), f"the evaluation plan of {section.title}"
    if name is not None:
        sampling, origin = find(samplings, name, section.title), f"sampling {name!r} of {section.title}"
        data = {"steps": sampling.steps, "sampler": sampling.sampler, "guidance": sampling.guidance}
    elif plan is not None:
        steps = max(plan.steps, default=STEPS)
        data = {"steps": steps, "sampler": plan.sampler, "guidance": plan.guidance}
    else:
        return []
    return [suggestion(data, origin, {**DEFAULTS, "teacher": section.name})]


def _scalars(name: str | None) -> list[Option]:
    """The options ``sampling``, by default the teacher's first one, and ``steps``."""
    steps = next(option for option in options_of(TeacherSampling) if option.key == "steps")
    doc = "One of the teacher's named samplings, which all other options override."
    return [
        Option(path=("sampling",), type=str | None, default=name, doc=doc),
        attrs.evolve(steps, default=STEPS),
    ]


def sampling_of(drafted: SamplingDraft) -> SamplingJob:
    """The job of a draft.

    Raises:
        DimoError: for all mistakes of the draft.
    """
    draft, name = drafted.draft, drafted.draft.preset
    made = draft.make()
    for note in draft.context.notes:
        logger.warning(note)
    values = {key: made[key] for key in ("steps", "sampler", "guidance")}
    sampling: TeacherSampling = finish(TeacherSampling, values, draft)
    if name is not None:
        published = TeacherSampling.of(drafted.samplings[name], draft.context.registry)
        sampling = attrs.evolve(sampling, name=name if sampling == published else f"{name}, changed")
    config = {"sampling": name} | {
        key: value for key, value in draft.config(made).items() if key != "sampling"
    }
    return SamplingJob(config=config, teacher=made["teacher"], sampling=sampling)
