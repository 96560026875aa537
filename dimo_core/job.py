"""A resolved run: one object for each chosen plugin, and the engine's options."""

from collections.abc import Mapping
from typing import Any

import attrs
from attrs import validators as v

from dimo_core.auxiliary import AuxiliaryOptions
from dimo_core.divergence import Divergence
from dimo_core.generator import GeneratorOptions
from dimo_core.guidance import Guidance
from dimo_core.objective import Ingredients, ObjectiveOptions
from dimo_core.sampler import Sampler
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
