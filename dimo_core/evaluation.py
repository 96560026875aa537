"""Evaluation: the teacher at several step counts, the generator at one, and real data as the floor."""

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import nn

from dimo_core.backbone import Backbone
from dimo_core.conditions import Condition
from dimo_core.drawing import Draw, Drawing
from dimo_core.draws import Draws
from dimo_core.generator import Generator
from dimo_core.guidance import Guidance
from dimo_core.judge import Judge
from dimo_core.metric import Samples, joined_samples
from dimo_core.registry import Loader, built
from dimo_core.sampler import Sampled, Sampler, TeacherSampling, described
from dimo_core.settings import Evaluate
from dimo_core.sources import Conditions
from dimo_core.table import Kind, Row, Table
from dimo_core.teacher import EvaluationPlan, Teacher

ENOUGH = 20
"""Samples for each feature from which on a distance is hardly larger for being measured on few of them."""

COUNTS_DIFFER = "Rows differ in n: distances such as FID grow when there are fewer samples."

Progress = Callable[[str, int, int], None]
"""Receives the name of a row, how many of its samples are drawn, and how many will be."""


def _silent(row: str, done: int, total: int) -> None:
    pass


@attrs.define(kw_only=True, eq=False)
class Evaluator:
    """Draws samples and has them judged; every number repeats exactly.

    Random numbers depend on the seed and the sample's position alone, so all rows share them, and an
    evaluation on the way disturbs nothing. Networks are used in eval mode and get their modes back.

    Attributes:
        teacher: Encodes conditions and decodes tokens.
        conditions: Gives the conditions, evenly spread.
        judge: Computes the numbers of samples: ``judge(samples)``.
        sampler: Multi-step sampler of the teacher's rows.
        guidance: Its guidance.
        samplings: The teacher's rows by name; when empty, its rows are step counts of sampler and guidance.
        settings: Sample counts and batch size; where null, the plan's count rules.
        seed: Seed of the draws.
        device: Where networks are and samples are drawn.
        progress: Told after each batch.
    """

    teacher: Teacher
    conditions: Conditions
    judge: Judge
    sampler: Sampler
    guidance: Guidance
    samplings: tuple[TeacherSampling, ...] = ()
    settings: Evaluate = attrs.field(factory=Evaluate)
    seed: int = 0
    device: torch.device = attrs.field(default=torch.device("cpu"), converter=torch.device)
    progress: Progress = _silent

    @classmethod
    def resolve(
        cls,
        teacher: Teacher,
        plan: EvaluationPlan,
        registry: Loader,
        *,
        conditions: Conditions,
        settings: Evaluate,
        seed: int = 0,
        device: torch.device,
        sampler: Sampler | None = None,
    ) -> "Evaluator":
        """Build what the plan names.

        Args:
            teacher: Whose plan it is.
            plan: What to compute, by registry names.
            registry: Loads them.
            conditions: Source of the conditions to sample for.
            settings: Sample counts and batch size.
            seed: Seed of the draws.
            device: Where networks are.
            sampler: Used instead of the plan's.

        Raises:
            UsageError: if data, extractor, sampler, guidance or a sampling are unknown. A metric is only
                noted.
        """
        names = dict.fromkeys(settings.samplings)
        return cls(
            teacher=teacher,
            conditions=conditions,
            judge=Judge.resolve(teacher, plan, registry, batch_size=settings.batch_size),
            sampler=sampler or built(registry, "sampler", plan.sampler),
            guidance=built(registry, "guidance", plan.guidance),
            samplings=tuple(TeacherSampling.named(teacher, name, registry) for name in names),
            settings=settings,
            seed=seed,
            device=device,
        )

    def generator_row(
        self, generator: Generator, name: str = "generator, 1 step", samples: int | None = None
    ) -> Row:
        """Judge one-step samples.

        Args:
            generator: On ``device``.
            name: Name of the row.
            samples: How many; None takes the protocol's number.
        """

        def draw(c: Condition, draws: Draws) -> Sampled:
            return Sampled(tokens=generator.sample(c, draws), passes=1)

        return self._row(name, "generator", 1, generator, draw, samples)

    @property
    def ways(self) -> tuple[TeacherSampling, ...]:
        """How the teacher is sampled, row by row."""
        if self.samplings:
            return self.samplings
        counts = self.judge.plan.steps if self.settings.steps is None else self.settings.steps
        return tuple(TeacherSampling(steps=n, sampler=self.sampler, guidance=self.guidance) for n in counts)

    def teacher_row(self, network: Backbone, way: TeacherSampling, samples: int | None = None) -> Row:
        """Judge samples that the teacher draws in many steps.

        Args:
            network: The teacher's network, on ``device``.
            way: Steps, sampler and guidance.
            samples: How many; None takes the protocol's number.
        """

        def draw(c: Condition, draws: Draws) -> Sampled:
            return way.draw(self.teacher, network, c, draws)

        row = self._row(way.title, "teacher", way.steps, network, draw, samples)
        return attrs.evolve(row, sampling=way.name)

    def floor_row(self) -> Row | None:
        """Judge another part of the real data, as a perfect model would be; None when the plan has none."""
        floor = self.judge.floor
        if floor is None:
            return None
        numbers = self.judge(floor)
        return Row(name="real data", kind="real", samples=len(floor), metrics=numbers)

    def table(self, generator: Generator | None, network: Backbone) -> Table:
        """The teacher in each of its ``ways``, the generator at one step, and the real floor.

        Args:
            generator: On ``device``; None for a table of the teacher alone.
            network: The teacher's network, on ``device``.
        """
        plan = self.judge.plan
        rows = [self.teacher_row(network, way) for way in self.ways]
        if generator is not None:
            rows.append(self.generator_row(generator))
        if (floor := self.floor_row()) is not None:
            rows.append(floor)
        return Table(
            rows=tuple(rows),
            shown=plan.shown,
            better=self.judge.better,
            protocol=self.protocol(generator),
            notes=(*size_notes(self.judge.width, rows, "--eval.samples"), *self.judge.notes),
        )

    def protocol(self, generator: Generator | None) -> dict[str, Any]:
        """What makes these numbers comparable with others, as plain data."""
        return {
            "samples": self._count(None),
            "seed": self.seed,
            "batch_size": self.settings.batch_size,
            "device": str(self.device),
            **self.judge.protocol(),
            **self._sampled(),
            **({} if generator is None else {"generator": dict(generator.sampling())}),
        }

    def _sampled(self) -> dict[str, Any]:
        if self.samplings:
            return {"samplings": [way.as_dict() for way in self.samplings]}
        return {"sampler": described(self.sampler), "guidance": described(self.guidance)}

    def _count(self, samples: int | None) -> int:
        return samples or self.settings.samples or self.judge.plan.samples

    def _row(
        self, name: str, kind: Kind, steps: int, network: nn.Module, draw: Draw, samples: int | None
    ) -> Row:
        count = self._count(samples)
        raw = self.conditions.balanced(self.teacher.conditioning, count)
        drawing = Drawing(
            teacher=self.teacher,
            seed=self.seed,
            phase="evaluation",
            device=self.device,
            batch_size=self.settings.batch_size,
        )
        parts, passes, seconds = [], 0, 0.0
        for batch in drawing.batches(raw, draw, network):
            conditions = raw[batch.start : batch.start + len(batch.tokens)]
            drawn = Samples(conditions=tuple(conditions), tokens=batch.tokens, images=batch.images)
            parts.append(self.judge.reduced(drawn))
            passes, seconds = max(passes, batch.passes), seconds + batch.seconds
            self.progress(name, batch.start + len(batch.tokens), count)
        return Row(
            name=name,
            kind=kind,
            steps=steps,
            passes=passes,
            samples=count,
            seconds=seconds,
            metrics=self.judge(joined_samples(parts)),
        )


def size_notes(width: int, rows: Sequence[Row], option: str, reference: int = 0) -> list[str]:
    """Warnings about sample counts: distances between distributions are too large for few samples.

    Args:
        width: Features in which distances are measured; 0 for none.
        rows: The rows.
        option: What raises the number of samples.
        reference: Real samples that they are compared with; 0 for none, or if nobody knows.
    """
    drawn = {row.samples for row in rows if row.kind != "real"}
    if not drawn or not width:
        return []
    fewest, notes = min(drawn), []
    if 0 < reference <= width:
        notes.append(
            f"{reference} real samples are few for {width} features: distances come out far too large."
        )
    if fewest <= width:
        notes.append(
            f"{fewest} samples are few for {width} features: distances such as FID come out far too large. "
            f"Raise {option}."
        )
        return notes
    if len(drawn) > 1:
        notes.append(COUNTS_DIFFER)
    if fewest < ENOUGH * width:
        notes.append(
            f"{fewest} samples for {width} features: distances such as FID come out too large, so compare "
            f"them at the same n only. From {ENOUGH * width} on it hardly matters ({option})."
        )
    return notes
