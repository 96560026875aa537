"""From names and options to the job of a distillation.

Precedence, option by option: command line (or Python arguments) > config files > environment > preset >
plugin default. A source that names another plugin than the chosen one gives no options to it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from attrs import validators as v

from dimo_core.auxiliary import AuxiliaryOptions
from dimo_core.config.draft import Draft, Section, choose, complete, first_look, group, next_folder
from dimo_core.config.layers import Context, Layer, from_mapping
from dimo_core.divergence import Divergence
from dimo_core.errors import DimoError, UnknownNameError
from dimo_core.generator import GeneratorOptions
from dimo_core.guidance import Guidance
from dimo_core.objective import Ingredients, ObjectiveOptions
from dimo_core.registry import Registry
from dimo_core.sampler import Sampler, TeacherSampling
from dimo_core.settings import Evaluate, Train
from dimo_core.sources import Conditions
from dimo_core.suggestions import Recipe
from dimo_core.teacher import Teacher
from dimo_core.tracker import Tracker


@attrs.frozen(kw_only=True)
class Common:
    """Options of a training that belong to no section.

    Attributes:
        seed: Seed of every draw.
        out: Run folder, a path or fsspec URL. The next free one below runs/ when null.
        device: ``auto``, or a torch device.
    """

    seed: int = attrs.field(default=0, validator=v.ge(0))
    out: str | None = None
    device: str = "auto"


@attrs.frozen(kw_only=True)
class Job(Common):
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
        out: Run folder, a path or fsspec URL.
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
    out: str

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
"""Plugins by registry name, when nobody chooses others; a distillation has one of each kind."""

GROUPS: Mapping[str, type] = {"train": Train, "eval": Evaluate}
"""Options of the engine."""

KEYS = ("preset", *DEFAULTS, *GROUPS, *(field.name for field in attrs.fields(Common)))
"""Top-level keys of the configuration."""


def resolve_job(
    overrides: Mapping[str, Any] | None = None, preset: str | None = None, registry: Registry | None = None
) -> Job:
    """Everything that a distillation needs.

    Args:
        overrides: The shape of a config file. A plugin may also be a ``Choice`` or a finished options object,
            ``train`` and ``eval`` objects of their classes.
        preset: One of the teacher's recipes; its first one when neither this nor a layer names one.
        registry: The installed plugins; discovered when None.

    Raises:
        ConfigError: for wrong options, all of them in one message.
        UnknownNameError: for a plugin or preset that does not exist.
        PluginError: for a plugin that cannot be used.
    """
    arguments = dict(overrides or {}) | ({"preset": preset} if preset is not None else {})
    layer = from_mapping(arguments, "the arguments")
    return job_of(draft_job([layer], Context(registry=registry or Registry.discover())))


def job_from_config(config: Mapping[str, Any], registry: Registry | None = None) -> Job:
    """The job of a resolved configuration, as a run folder holds it; presets are not applied again.

    Raises:
        ConfigError: for options that the installed plugins do not take.
        UnknownNameError: for a plugin that is no longer installed.
        PluginError: for a plugin that cannot be used.
    """
    layer = from_mapping(config, "the stored configuration")
    context = Context(registry=registry or Registry.discover(), suggestions=False)
    return job_of(draft_job([layer], context))


def draft_job(layers: Sequence[Layer], context: Context) -> Draft:
    """Sections and values of a distillation.

    Args:
        layers: From the lowest to the highest precedence.
        context: Registry and mistakes.
    """
    chosen = choose("teacher", DEFAULTS["teacher"], layers, context)
    preset = next((layer.data["preset"] for layer in reversed(layers) if layer.data.get("preset")), None)
    recipes: Mapping[str, Recipe] = {}
    teacher = first_look(chosen, layers, context) if context.suggestions else None
    if chosen is not None and teacher is not None:
        base, preset, recipes = _suggestions(chosen, teacher, preset, context)
        layers = [*base, *layers]
    # Without the teacher's suggestions nobody knows which plugins the other options are meant for.
    lost = context.suggestions and (teacher is None or bool(context.problems))
    named = {kind for kind in DEFAULTS for layer in layers if layer.name(kind) or kind in layer.objects}
    meant = [kind for kind in DEFAULTS if kind != "teacher" and (not lost or kind in named)]
    kinds = [choose(kind, DEFAULTS[kind], layers, context) for kind in meant]
    groups = [group(key, cls, layers, context) for key, cls in GROUPS.items()]
    draft = complete([chosen, *kinds, *groups, Section(key="", cls=Common)], layers, context, KEYS)
    return attrs.evolve(draft, preset=preset, presets=recipes)


def job_of(draft: Draft) -> Job:
    """The job of a draft.

    Raises:
        DimoError: for all mistakes of the draft.
    """
    made = draft.make()
    for name in made["eval"].samplings:
        TeacherSampling.named(made["teacher"], name, draft.context.registry)
    made["config"] = {"preset": draft.preset} | made["config"]
    made["out"] = made["out"] or next_folder(*(draft.sections[key].name for key in ("teacher", "divergence")))
    return Job(**made)


def _suggestions(
    section: Section, teacher: Teacher, preset: Any, context: Context
) -> tuple[list[Layer], str | None, Mapping[str, Recipe]]:
    """What the teacher suggests: sampler and conditions of its evaluation, and the preset's recipe."""
    try:
        recipes, plan = dict(teacher.recipes()), teacher.evaluation()
    except DimoError as error:
        context.report(error)
        return [], None, {}
    layers = []
    defaults = {**DEFAULTS, "teacher": section.name}
    if plan is not None:
        suggested = {"sampler": plan.sampler, "conditions": plan.conditions}
        defaults |= {kind: choice.name for kind, choice in suggested.items()}
        layers.append(from_mapping(suggested, f"the evaluation plan of {section.title}", defaults))
    if preset is None:
        preset = next(iter(recipes), None)
    elif preset not in recipes:
        context.report(UnknownNameError("preset", str(preset), recipes, f"(of {section.title})"))
        return layers, None, recipes
    if preset is not None:
        layers.append(from_mapping(recipes[preset], f"preset {preset!r} of {section.title}", defaults))
    return layers, preset, recipes
