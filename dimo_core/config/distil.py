"""From names and options to the job of a distillation.

Precedence, option by option: command line (or Python arguments) > config files > environment > preset >
plugin default. A source that names another plugin than the chosen one gives no options to it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from attrs import validators as v
from loguru import logger

from dimo_core.auxiliary import AuxiliaryOptions
from dimo_core.config.draft import Draft, choose, complete, finish, group, next_folder, scalar_options
from dimo_core.config.layers import Layer, from_mapping
from dimo_core.config.sections import Context, Section
from dimo_core.divergence import Divergence
from dimo_core.errors import ConfigError, DimoError, PluginError, UnknownNameError
from dimo_core.generator import GeneratorOptions
from dimo_core.guidance import Guidance
from dimo_core.objective import Ingredients, ObjectiveOptions
from dimo_core.registry import Registry
from dimo_core.sampler import Sampler, TeacherSampling
from dimo_core.settings import Evaluate, Train
from dimo_core.sources import Conditions
from dimo_core.teacher import Teacher
from dimo_core.tracker import Tracker


@attrs.frozen(kw_only=True)
class Job:
    """Everything ``dimo run`` needs, validated, before any weight is read.

    Attributes:
        config: The resolved configuration as plain data: what ``config.yaml`` holds, and what rebuilds this
            job.
        teacher: p_phi.
        generator: Options of p_theta.
        auxiliary: Options of p_psi.
        divergence: D.
        guidance: Guidance of the teacher within the objective.
        conditions: Source of raw conditions.
        objective: What is trained.
        sampler: Multi-step sampler of the teacher's rows.
        tracker: Where scalars go besides metrics.jsonl.
        train: Length and precision.
        eval: Evaluation.
        seed: Seed of every draw.
        out: Run folder, a path or fsspec URL.
        device: ``auto``, or a torch device.
    """

    config: Mapping[str, Any]
    teacher: Teacher
    generator: GeneratorOptions
    auxiliary: AuxiliaryOptions
    divergence: Divergence
    guidance: Guidance
    conditions: Conditions
    objective: ObjectiveOptions
    sampler: Sampler
    tracker: Tracker
    train: Train = attrs.field(factory=Train)
    eval: Evaluate = attrs.field(factory=Evaluate)
    seed: int = attrs.field(default=0, validator=v.ge(0))
    out: str
    device: str = "auto"

    def ingredients(self, *, skeleton: bool = False) -> Ingredients:
        """What the objective is made of; with ``skeleton`` no weight is read."""
        return Ingredients(
            teacher=self.teacher,
            generator=self.generator,
            auxiliary=self.auxiliary,
            divergence=self.divergence,
            guidance=self.guidance,
            skeleton=skeleton,
        )


DEFAULTS: Mapping[str, str] = {
    "teacher": "maskgit",
    "generator": "one_step",
    "auxiliary": "denoiser",
    "divergence": "jeffrey",
    "guidance": "constant",
    "conditions": "labels",
    "objective": "dimo",
    "sampler": "maskgit",
    "tracker": "none",
}
"""Plugins of a distillation, by registry name, when nobody chooses others."""

GROUPS: Mapping[str, type] = {"train": Train, "eval": Evaluate}
"""Options of the engine."""

SCALARS = ("seed", "out", "device")
"""Options that belong to no section."""

KEYS = ("preset", *DEFAULTS, *GROUPS, *SCALARS)
"""Top-level keys of the configuration."""


def resolve_job(
    overrides: Mapping[str, Any] | None = None,
    preset: str | None = None,
    registry: Registry | None = None,
    *,
    layers: Sequence[Layer] = (),
) -> Job:
    """Everything that a distillation needs.

    Args:
        overrides: The shape of a config file. A plugin may also be a ``Choice`` or a finished options object,
            ``train`` and ``eval`` objects of their classes.
        preset: One of the teacher's recipes; its first one when neither this nor a layer names one.
        registry: The installed plugins; discovered when None.
        layers: Further sources below ``overrides``, from the lowest to the highest.

    Raises:
        ConfigError: for wrong options, all of them in one message.
        UnknownNameError: for a plugin or preset that does not exist.
        PluginError: for a plugin that cannot be used.
    """
    arguments = dict(overrides or {}) | ({"preset": preset} if preset is not None else {})
    draft = draft_job([*layers, from_mapping(arguments, "the arguments")], registry or Registry.discover())
    return job_of(draft)


def job_from_config(config: Mapping[str, Any], registry: Registry | None = None) -> Job:
    """The job of a resolved configuration, as a run folder holds it; presets are not applied again.

    Raises:
        ConfigError: for options that the installed plugins do not take.
        UnknownNameError: for a plugin that is no longer installed.
        PluginError: for a plugin that cannot be used.
    """
    layer = from_mapping(config, "the stored configuration")
    return job_of(draft_job([layer], registry or Registry.discover(), presets=False))


def draft_job(
    layers: Sequence[Layer], registry: Registry, *, presets: bool = True, short: Sequence[str] = ()
) -> Draft:
    """Sections and values of a distillation.

    Args:
        layers: From the lowest to the highest precedence.
        registry: The installed plugins.
        presets: Whether the teacher's recipe and evaluation plan count.
        short: Short forms on the command line, for near matches.
    """
    context = Context(registry=registry, short=short)
    chosen = choose("teacher", DEFAULTS["teacher"], layers, context)
    preset = next((layer.data["preset"] for layer in reversed(layers) if layer.data.get("preset")), None)
    known: tuple[str, ...] = ()
    teacher = first_look(chosen, layers, context) if presets and chosen is not None else None
    if chosen is not None and teacher is not None:
        base, preset, known = _suggestions(chosen, teacher, preset, context)
        layers = [*base, *layers]
    # Without the teacher's suggestions nobody knows which plugins the other options are meant for.
    lost = presets and (teacher is None or bool(context.problems.found))
    named = {kind for kind in DEFAULTS for layer in layers if layer.name(kind) or kind in layer.objects}
    meant = [kind for kind in DEFAULTS if kind != "teacher" and (not lost or kind in named)]
    kinds = [choose(kind, DEFAULTS[kind], layers, context) for kind in meant]
    groups = [group(key, cls, layers, context) for key, cls in GROUPS.items()]
    draft = complete([chosen, *kinds, *groups], scalar_options(Job, SCALARS), layers, context, KEYS)
    return attrs.evolve(draft, preset=preset, presets=known)


def job_of(draft: Draft) -> Job:
    """The job of a draft.

    Raises:
        DimoError: for all mistakes of the draft.
    """
    made = draft.make()
    for name in made["eval"].samplings:
        TeacherSampling.named(made["teacher"], name, draft.context.registry)
    for note in draft.context.notes:
        logger.warning(note)
    config = {"preset": draft.preset} | draft.config(made)
    names = (draft.sections["teacher"].name, draft.sections["divergence"].name)
    job: Job = finish(Job, made | {"config": config, "out": made["out"] or next_folder(*names)}, draft)
    return job


def first_look(section: Section, layers: Sequence[Layer], context: Context) -> Teacher | None:
    """The teacher before its suggestions, which knows them; None when its options are wrong.

    What is wrong is reported when all sections are gathered, and therefore not kept here.

    Args:
        section: The chosen teacher.
        layers: From the lowest to the highest precedence.
        context: Registry and mistakes.
    """
    aside = Context(registry=context.registry)
    teacher = section.make(section.gather(layers, aside), aside.problems)
    return None if aside.problems.found or not isinstance(teacher, Teacher) else teacher


def _suggestions(
    section: Section, teacher: Teacher, preset: Any, context: Context
) -> tuple[list[Layer], str | None, tuple[str, ...]]:
    """What the teacher suggests: sampler and conditions of its evaluation, and the preset's recipe."""
    try:
        recipes, plan = dict(teacher.recipes()), teacher.evaluation()
    except DimoError as error:
        context.problems.add(error)
        return [], None, ()
    layers = []
    defaults = {**DEFAULTS, "teacher": section.name}
    if plan is not None:
        suggested = {"sampler": plan.sampler, "conditions": plan.conditions}
        defaults |= {kind: choice.name for kind, choice in suggested.items()}
        layers.append(suggestion(suggested, f"the evaluation plan of {section.title}", defaults))
    if preset is None:
        preset = next(iter(recipes), None)
    elif preset not in recipes:
        context.problems.add(UnknownNameError("preset", str(preset), recipes, f"(of {section.title})"))
        return layers, None, tuple(recipes)
    if preset is not None:
        layers.append(suggestion(recipes[preset], f"preset {preset!r} of {section.title}", defaults))
    return layers, preset, tuple(recipes)


def suggestion(data: Mapping[str, Any], origin: str, defaults: Mapping[str, str]) -> Layer:
    """A layer from a plugin: sections without a name are meant for the default plugins.

    Args:
        data: The shape of a config file.
        origin: What it is, as people read it.
        defaults: Plugins that are meant, by kind.

    Raises:
        PluginError: when it has not that shape.
    """
    try:
        return from_mapping(data, origin, assumed=defaults, fault=PluginError)
    except ConfigError as error:
        raise PluginError(str(error)) from error
