"""From names and options to a way of sampling a teacher; see ``dimo_core.config.distil`` for distillation.

Precedence, option by option: command line (or Python arguments) > config files > environment > the teacher's
named sampling > plugin default.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import attrs
from attrs import validators as v

from dimo_core.config.distil import DEFAULTS
from dimo_core.config.draft import Draft, Section
from dimo_core.config.layers import Layer, from_mapping, last
from dimo_core.errors import DimoError
from dimo_core.sampler import TeacherSampling, find
from dimo_core.suggestions import ASSUMED, EvaluationPlan, Sampling
from dimo_core.teacher import Teacher


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


class SampleDraft(Draft):
    """How ``dimo sample --teacher`` makes its job; its presets are the teacher's samplings."""

    keys = ("sampling", "teacher", "sampler", "guidance", "steps")
    defaults = DEFAULTS
    groups = MappingProxyType({"": Own})

    def outline(self) -> list[Section | None]:
        """Teacher, sampler and guidance."""
        chosen, wanted = self.choose("teacher"), last(self.layers, "sampling")
        teacher = self.first_look(chosen)
        if chosen is not None and teacher is not None:
            try:
                self.presets = dict(teacher.samplings())
                self.preset = next(iter(self.presets), None) if wanted is None else str(wanted)
                self.layers = [self._suggestion(chosen, teacher), *self.layers]
            except DimoError as error:
                self.problems.append(error)
        return [chosen, self.choose("sampler"), self.choose("guidance")]

    def _suggestion(self, chosen: Section, teacher: Teacher) -> Layer:
        """What the teacher suggests: the named sampling, or else its evaluation's way in the most steps."""
        way: Sampling | EvaluationPlan = teacher.evaluation() or ASSUMED
        origin = f"the evaluation plan of {chosen.title}"
        if self.preset is not None:
            way = find(self.presets, self.preset, chosen.title)
            origin = f"sampling {self.preset!r} of {chosen.title}"
        steps = way.steps if isinstance(way, Sampling) else max(way.steps, default=Own().steps)
        data = {"sampling": self.preset, "steps": steps, "sampler": way.sampler, "guidance": way.guidance}
        return from_mapping(data, origin, {**DEFAULTS, "teacher": chosen.name})

    def job(self) -> SamplingJob:
        """The job; its sampling has the name that it began with, or tells that options were changed."""
        made, name = self.make(), self.preset
        sampling = TeacherSampling(**{key: made[key] for key in ("steps", "sampler", "guidance")})
        if name is not None:
            published = TeacherSampling.of(self.presets[name], self.registry)
            sampling = attrs.evolve(sampling, name=name if sampling == published else f"{name}, changed")
        config = {"sampling": name} | made["config"] | {"sampling": name}
        return SamplingJob(config=config, teacher=made["teacher"], sampling=sampling)
