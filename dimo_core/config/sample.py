"""From names and options to a way of sampling a teacher; see ``dimo_core.config.distil`` for distillation.

Precedence, option by option: command line (or Python arguments) > config files > environment > the teacher's
named sampling > plugin default.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from attrs import validators as v

from dimo_core.config.distil import DEFAULTS
from dimo_core.config.draft import Draft, Section, choose, complete, first_look
from dimo_core.config.layers import Context, Layer, from_mapping
from dimo_core.errors import DimoError
from dimo_core.registry import Registry
from dimo_core.sampler import TeacherSampling, find
from dimo_core.suggestions import ASSUMED, EvaluationPlan, Sampling
from dimo_core.teacher import Teacher

KINDS = ("teacher", "sampler", "guidance")
"""Kinds of plugins that a sampling has."""

KEYS = ("sampling", *KINDS, "steps")
"""Top-level keys of the configuration."""


@attrs.frozen(kw_only=True)
class Own:
    """Options of a sampling that belong to no section.

    Attributes:
        sampling: One of the teacher's named samplings, which all other options override.
        steps: Number of sampling steps, from 1 up; fewer are taken when nothing is masked any more.
    """

    sampling: str | None = None
    steps: int = attrs.field(default=max(ASSUMED.steps), validator=v.ge(1))


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


def resolve_sampling(
    overrides: Mapping[str, Any] | None = None, registry: Registry | None = None
) -> SamplingJob:
    """A teacher and a way of sampling it.

    Args:
        overrides: The shape of a config file, with the keys ``KEYS``; plugins may be finished objects.
        registry: The installed plugins; discovered when None.

    Raises:
        ConfigError: for wrong options, all of them in one message.
        UnknownNameError: for a plugin or sampling that does not exist.
        PluginError: for a plugin that cannot be used.
    """
    layer = from_mapping(overrides or {}, "the arguments")
    context = Context(registry=registry or Registry.discover())
    return sampling_of(draft_sampling([layer], context))


def draft_sampling(layers: Sequence[Layer], context: Context) -> Draft:
    """Sections and values of sampling a teacher; its presets are the teacher's samplings.

    Args:
        layers: From the lowest to the highest precedence.
        context: Registry and mistakes.
    """
    chosen = choose("teacher", DEFAULTS["teacher"], layers, context)
    wanted = next((layer.data["sampling"] for layer in reversed(layers) if layer.data.get("sampling")), None)
    name, samplings = None, {}
    if chosen is not None and (teacher := first_look(chosen, layers, context)) is not None:
        try:
            samplings = dict(teacher.samplings())
            name = next(iter(samplings), None) if wanted is None else str(wanted)
            layers = [_suggestion(chosen, teacher, samplings, name), *layers]
        except DimoError as error:
            context.report(error)
    sections = [chosen, *(choose(kind, DEFAULTS[kind], layers, context) for kind in KINDS[1:])]
    draft = complete([*sections, Section(key="", cls=Own)], layers, context, KEYS)
    return attrs.evolve(draft, preset=name, presets=samplings)


def _suggestion(
    section: Section, teacher: Teacher, samplings: Mapping[str, Sampling], name: str | None
) -> Layer:
    """What the teacher suggests: the named sampling, or else its evaluation's way in the most steps."""
    way: Sampling | EvaluationPlan = teacher.evaluation() or ASSUMED
    origin = f"the evaluation plan of {section.title}"
    if name is not None:
        way, origin = find(samplings, name, section.title), f"sampling {name!r} of {section.title}"
    steps = way.steps if isinstance(way, Sampling) else max(way.steps, default=Own().steps)
    data = {"sampling": name, "steps": steps, "sampler": way.sampler, "guidance": way.guidance}
    return from_mapping(data, origin, {**DEFAULTS, "teacher": section.name})


def sampling_of(draft: Draft) -> SamplingJob:
    """The job of a draft.

    Raises:
        DimoError: for all mistakes of the draft.
    """
    made, name = draft.make(), draft.preset
    sampling = TeacherSampling(**{key: made[key] for key in ("steps", "sampler", "guidance")})
    if name is not None:
        published = TeacherSampling.of(draft.presets[name], draft.context.registry)
        sampling = attrs.evolve(sampling, name=name if sampling == published else f"{name}, changed")
    config = {"sampling": name} | made["config"] | {"sampling": name}
    return SamplingJob(config=config, teacher=made["teacher"], sampling=sampling)
