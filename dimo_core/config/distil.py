"""From names and options to the job of a distillation.

Precedence, option by option: command line (or Python arguments) > config files > environment > preset >
plugin default. A source that names another plugin than the chosen one gives no options to it.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from attrs import validators as v

from dimo_core.config.draft import Draft, Section
from dimo_core.config.folders import next_folder
from dimo_core.config.layers import from_mapping, last
from dimo_core.errors import ConfigError, DimoError, UnknownNameError
from dimo_core.files.urls import from_anywhere
from dimo_core.registry import Registry
from dimo_core.settings import Evaluate, Train

if TYPE_CHECKING:
    from dimo_core.auxiliary import AuxiliaryOptions
    from dimo_core.divergence import Divergence
    from dimo_core.generator import GeneratorOptions
    from dimo_core.guidance import Guidance
    from dimo_core.objective import Ingredients, ObjectiveOptions
    from dimo_core.sampler import Sampler
    from dimo_core.sources import Conditions, Data
    from dimo_core.teacher import Teacher
    from dimo_core.tracker import Tracker


@attrs.frozen(kw_only=True)
class Common:
    """Options of a training that belong to no section.

    Attributes:
        seed: Seed of every draw.
        out: Run folder, a path or fsspec URL. The next free one below runs/ when null.
        device: ``auto``, or a torch device.
        tokens: Folder or URL of the token cache, for data that are streamed; ``tokens`` in the run folder
            when null. A finished cache of the same data and tokenizer is used as it is.
    """

    seed: int = attrs.field(default=0, validator=v.ge(0))
    out: str | None = None
    device: str = "auto"
    tokens: str | None = attrs.field(default=None, converter=from_anywhere)


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
        data: What an objective that reads data is fed with; None for others.
        objective: What is trained.
        sampler: Multi-step sampler of the teacher's rows.
        tracker: Where scalars go besides metrics.jsonl.
        train: Length and precision.
        eval: Evaluation.
        out: Run folder, a path or fsspec URL.
    """

    config: Mapping[str, Any]
    teacher: "Teacher"
    generator: "GeneratorOptions"
    auxiliary: "AuxiliaryOptions"
    divergence: "Divergence"
    guidance: "Guidance"
    conditions: "Conditions"
    objective: "ObjectiveOptions"
    sampler: "Sampler"
    tracker: "Tracker"
    data: "Data | None" = None
    train: Train = attrs.field(factory=Train)
    eval: Evaluate = attrs.field(factory=Evaluate)
    out: str

    @property
    def method(self) -> list[str]:
        """The objective by name, and the divergence where it uses one."""
        return _method(self.config, self.objective)

    def advice(self) -> Sequence[str]:
        """What the teacher knows to go wrong; it is shown what the objective uses, and no more."""
        from dimo_core.objective import ObjectiveOptions

        idle = ObjectiveOptions.uses - self.objective.uses
        return self.teacher.advise({key: own for key, own in self.config.items() if key not in idle})

    def ingredients(self, *, skeleton: bool = False) -> "Ingredients":
        """What the objective is made of; with ``skeleton`` no weight is read."""
        from dimo_core.objective import Ingredients

        names = [field.name for field in attrs.fields(Ingredients) if field.name != "skeleton"]
        return Ingredients(**{name: getattr(self, name) for name in names}, skeleton=skeleton)


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

GROUPS: Mapping[str, type] = {"train": Train, "eval": Evaluate, "": Common}
"""Options of the engine, and those of the job."""


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
    job: Job = DistilDraft.resolve(
        dict(overrides or {}) | ({"preset": preset} if preset is not None else {}), registry
    )
    return job


def job_from_config(config: Mapping[str, Any], registry: Registry | None = None) -> Job:
    """The job of a resolved configuration, as a run folder holds it; presets are not applied again.

    Raises:
        ConfigError: for options that the installed plugins do not take.
        UnknownNameError: for a plugin that is no longer installed.
        PluginError: for a plugin that cannot be used.
    """
    layers = [from_mapping(config, "the stored configuration")]
    return DistilDraft(layers=layers, registry=registry or Registry.discover(), suggestions=False).job()


class DistilDraft(Draft):
    """How ``dimo run`` makes its job."""

    keys = (
        "preset",
        *DEFAULTS,
        "data",
        *filter(None, GROUPS),
        *(field.name for field in attrs.fields(Common)),
    )
    defaults, groups = DEFAULTS, GROUPS

    def outline(self) -> list[Section | None]:
        """One plugin of each kind; data only where the objective reads them."""
        chosen, self.preset = self.choose("teacher"), last(self.layers, "preset")
        teacher = self.first_look(chosen) if self.suggestions else None
        if chosen is not None and teacher is not None:
            self._suggest(chosen, teacher)
        # Without the teacher's suggestions nobody knows which plugins the other options are meant for.
        lost = self.suggestions and (teacher is None or bool(self.problems))
        meant = [kind for kind in DEFAULTS if kind != "teacher" and not (lost and self._is_open(kind))]
        others = [*map(self.choose, meant)]
        objective = next((each for each in others if each is not None and each.key == "objective"), None)
        self._unused(objective)
        return [chosen, *others, self._data(objective)]

    def _unused(self, objective: Section | None) -> None:
        """Refuse plugins that the objective makes nothing of, where the command line asks for them.

        Files and presets may mention them: the file of a run mentions every kind.
        """
        if objective is None:
            return
        from dimo_core.objective import ObjectiveOptions

        default = ObjectiveOptions.uses
        uses = getattr(objective.instance or objective.cls, "uses", default)
        asked = {
            path[0]: (written, layer)
            for layer in self.layers
            for path, written in layer.spelling.items()
            if path[0] in default - uses and written.startswith("--")
        }
        for kind, (written, layer) in asked.items():
            text = f"{objective.title} uses no {kind}. Leave it out, or choose another objective."
            self.problems.append(layer.fault(f"{written}: {text}"))

    def _data(self, objective: Section | None) -> Section | None:
        """What the objective is fed with; None where it reads no data, and nobody may give any."""
        if objective is None:
            return None
        given = [layer for layer in self.layers if "data" in layer.data]
        if "data" in getattr(objective.instance or objective.cls, "needs", ()):
            if not given:
                self.problems.append(
                    ConfigError(f"{objective.title} reads data: choose them with --data NAME")
                )
                return None
            return self.choose("data")
        for layer in given:
            if not layer.suggested:
                text = f"{objective.title} reads no data. Leave it out, or choose another objective."
                self.problems.append(layer.fault(f"{layer.where(('data',))}: {text}"))
        return None

    def _is_open(self, kind: str) -> bool:
        """Whether no layer says which plugin of a kind is meant."""
        said = [layer.data.get(kind, {}) for layer in self.layers]
        return all(isinstance(each, Mapping) and "name" not in each for each in said)

    def _suggest(self, chosen: Section, teacher: "Teacher") -> None:
        """Add what the teacher suggests: sampler and conditions of its evaluation, and a recipe."""
        try:
            self.presets, plan = dict(teacher.recipes()), teacher.evaluation()
        except DimoError as error:
            self.preset = None
            self.problems.append(error)
            return
        defaults, base = {**DEFAULTS, "teacher": chosen.name}, []
        if plan is not None:
            suggested = {"sampler": plan.sampler, "conditions": plan.conditions}
            defaults |= {kind: choice.name for kind, choice in suggested.items()}
            suggested |= {} if plan.data is None else {"data": plan.data}
            base.append(from_mapping(suggested, f"the evaluation plan of {chosen.title}", defaults))
        self.preset = next(iter(self.presets), None) if self.preset is None else str(self.preset)
        if self.preset in self.presets:
            recipe, origin = self.presets[self.preset], f"preset {self.preset!r} of {chosen.title}"
            base.append(from_mapping(recipe, origin, defaults))
        elif self.preset is not None:
            hint = f"(of {chosen.title})"
            self.problems.append(UnknownNameError("preset", str(self.preset), self.presets, hint))
        self.layers = [*base, *self.layers]

    def job(self) -> Job:
        """The job, its run folder named."""
        from dimo_core.sampler import TeacherSampling

        made = self.make()
        if made["tokens"] and "data" not in made:
            raise ConfigError(
                "--tokens is for data that are streamed, and the objective reads none. Leave it out."
            )
        for name in made["eval"].samplings:
            TeacherSampling.named(made["teacher"], name, self.registry)
        if (made["train"].frozen_dtype, made["eval"].precision) in (("bf16", "fp32"), ("bf16", "tf32")):
            raise ConfigError(
                f"train.frozen_dtype bf16 needs eval.precision bf16, got {made['eval'].precision}: the run's "
                "table and pictures are drawn with these networks. Add --eval.precision bf16."
            )
        made["config"] = {"preset": self.preset} | made["config"]
        if not made["out"]:
            (objective, *rest), teacher = _method(made["config"], made["objective"]), self.sections["teacher"]
            own = [] if objective == DEFAULTS["objective"] else [objective]
            made["out"] = next_folder(teacher.name, *own, *rest)
        return Job(**made)


def _method(config: Mapping[str, Any], objective: "ObjectiveOptions") -> list[str]:
    """The objective by name, and the divergence where it uses one."""
    kinds = ("objective", "divergence") if "divergence" in objective.uses else ("objective",)
    return [config[kind]["name"] for kind in kinds]
