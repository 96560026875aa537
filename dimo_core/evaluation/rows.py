"""Rows: samples of one way of drawing, and their numbers."""

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import nn

from dimo_core.evaluation.drawing import Drawing
from dimo_core.evaluation.judge import Judge
from dimo_core.evaluation.protocols import BLOCK
from dimo_core.evaluation.store import Drawn
from dimo_core.metric import Samples
from dimo_core.sources import Conditions
from dimo_core.teacher import Teacher


@attrs.define(kw_only=True, eq=False)
class Rows:
    """Draws samples and has them judged; every number repeats exactly.

    Random numbers depend on the seed and the sample's position alone, so all rows share them, and an
    evaluation on the way disturbs nothing.

    Attributes:
        teacher: Encodes conditions and decodes tokens; on ``device``.
        conditions: Gives the conditions, evenly spread.
        judge: Computes the numbers.
        device: Where networks are and samples are drawn.
        batch_size: Samples drawn at a time; it changes no sample.
    """

    teacher: Teacher
    conditions: Conditions
    judge: Judge
    device: torch.device = attrs.field(default=torch.device("cpu"), converter=torch.device)
    batch_size: int

    def raw(self, count: int | None = None) -> list[Any]:
        """The condition of each of so many samples, or of those of a row."""
        return list(self.conditions.balanced(self.teacher.conditioning, count or self.judge.plan.samples))

    def drawing(self, seed: int, phase: str = "evaluation", block: int = BLOCK, **kept: Any) -> Drawing:
        """How samples are drawn; further arguments are those of ``Drawing``."""
        own: dict[str, Any] = {"teacher": self.teacher, "device": self.device, "batch_size": self.batch_size}
        return Drawing(**own, seed=seed, phase=phase, block=block, **kept)

    def numbers(self, batches: Sequence[Drawn], network: nn.Module) -> dict[str, Any]:
        """What the samples of a row cost, which a network drew, and what they are worth: plain data."""
        drawn, machines = Drawn.joined(batches), dict.fromkeys(tuple(b.machine.items()) for b in batches)
        return {
            "passes": drawn.passes,
            "seconds": drawn.seconds,
            "decoding": drawn.decoding,
            "parameters": sum(p.numel() for p in network.parameters()),
            "machines": [dict(pairs) for pairs in machines],
            **self.judged(drawn.samples),
        }

    def judged(self, samples: Samples) -> dict[str, Any]:
        """The numbers of some samples, as plain data: metrics, and what is missing of them."""
        return self.judge.judged(samples)
