"""The same few conditions and draws at every moment of a run, so that pictures compare."""

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import nn

from dimo_core import conditions
from dimo_core.backbone import Backbone, inference
from dimo_core.conditions import Condition
from dimo_core.draws import Draws
from dimo_core.generator import Generator
from dimo_core.guidance import Guidance
from dimo_core.report.sheets import Picture, beside, sheet
from dimo_core.sampler import Sampler
from dimo_core.sources import Conditions
from dimo_core.teacher import Preview, Teacher
from dimo_core.tokens import Tokens

SITES = 4096
"""The most tokens of a sheet of samples, where that leaves at least 3 x 3: large pictures take long."""


@attrs.frozen(kw_only=True, eq=False)
class Showcase:
    """Fixed conditions and fixed random numbers, to be looked at.

    Attributes:
        teacher: Encodes conditions and makes previews.
        raw: The conditions, row by row; one condition fills a row.
        columns: Samples a row.
        seed: Seed of the draws.
        device: Where the networks are.
    """

    teacher: Teacher
    raw: tuple[Any, ...]
    columns: int
    seed: int
    device: torch.device = attrs.field(default=torch.device("cpu"), converter=torch.device)

    @classmethod
    def of(
        cls,
        teacher: Teacher,
        conditions: Conditions,
        *,
        seed: int,
        device: torch.device,
        rows: int | None = None,
        columns: int | None = None,
    ) -> "Showcase":
        """Choose ``rows`` conditions, evenly spread, equal ones together; 8 x 8, or fewer of many tokens."""
        side = next((n for n in (8, 6, 4) if n * n * teacher.tokens.length <= SITES), 3)
        rows, columns = rows or side, columns or side
        chosen = conditions.balanced(teacher.conditioning, rows)
        order = {repr(raw): i for i, raw in reversed(list(enumerate(chosen)))}
        chosen = sorted(chosen, key=lambda raw: order[repr(raw)])
        raw = tuple(raw for raw in chosen for _ in range(columns))
        return cls(teacher=teacher, raw=raw, columns=columns, seed=seed, device=device)

    @property
    def names(self) -> tuple[str, ...]:
        """Each sample's condition as people read it."""
        return tuple(self.teacher.describe(raw) for raw in self.raw)

    def of_generator(self, generator: Generator) -> Preview:
        """One-step samples."""
        return self._preview(generator, generator.sample)

    def of_teacher(self, network: Backbone, sampler: Sampler, guidance: Guidance, steps: int) -> Preview:
        """Samples of the teacher in ``steps`` steps."""

        def draw(c: Condition, draws: Draws) -> Tokens:
            return sampler.sample(
                self.teacher, network, c, steps=steps, guidance=guidance, draws=draws
            ).tokens

        return self._preview(network, draw)

    def picture(self, preview: Preview) -> Picture:
        """One preview as a sheet: what ``samples/`` holds."""
        return sheet(preview, self.names, self.columns)

    def teacher_beside_generator(
        self, generator: Generator, network: Backbone, sampler: Sampler, guidance: Guidance, steps: int
    ) -> Picture:
        """The teacher in ``steps`` steps, the generator in one, and the teacher in one.

        Args:
            generator: The trained generator.
            network: The teacher's network.
            sampler: The teacher's sampler.
            guidance: Its guidance.
            steps: The teacher's steps.
        """
        panels = {
            f"teacher, {steps} steps": self.of_teacher(network, sampler, guidance, steps),
            "generator, 1 step": self.of_generator(generator),
            "teacher, 1 step": self.of_teacher(network, sampler, guidance, 1),
        }
        return beside(panels, self.names, self.columns)

    def _preview(self, network: nn.Module, draw: Callable[[Condition, Draws], Tokens]) -> Preview:
        draws = Draws(seed=self.seed, phase="showcase", total=len(self.raw), device=self.device)
        c = conditions.to(self.teacher.encode_conditions(self.raw), self.device)
        with inference(network):
            return self.teacher.preview(draw(c, draws), c)
