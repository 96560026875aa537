"""The data ``gym``: draws from a known joint distribution."""

from collections.abc import Sequence
from typing import Literal

import attrs
import torch
from attrs import validators as v

from dimo_core.draws import stream_seed
from dimo_core.errors import UsageError
from dimo_core.sources import Data, Examples
from dimo_gym.joints import CONDITIONS, Joint, Known, sequences
from dimo_gym.measuring import in_turn
from dimo_gym.teacher import GymTeacher

SPLITS = ("teacher", "reference")


@attrs.frozen(kw_only=True)
class GymData(Known, Data):
    """Draws from a known joint distribution, as many of each condition.

    Attributes:
        joint: table, markov, ising, halves or aligned, as in ``Known``.
        length: Sites L; null for the joint's own.
        codes: Codes V; null for the joint's own.
        strength: How strong the dependence is; null for the joint's own.
        seed: Fixes what is drawn at random.
        count: How many.
        drawn_by: joint: the joint itself. exact, learnt: what such a teacher draws of it site by site in
            random order, as data for objectives that learn from a teacher's samples.
    """

    count: int = attrs.field(default=8192, validator=v.gt(1))
    drawn_by: Literal["joint", "exact", "learnt"] = "joint"

    def splits(self) -> Sequence[str]:
        """``teacher`` and ``reference``: independent draws."""
        return SPLITS

    def load(self, split: str) -> Examples:
        """Draw one part.

        Raises:
            UsageError: for an unknown split.
        """
        if split not in SPLITS:
            raise UsageError(f"data 'gym' has no split {split!r}. Known: {', '.join(SPLITS)}.")
        generator = torch.Generator().manual_seed(stream_seed("gym", self.seed, split))
        labels = torch.arange(self.count) % len(CONDITIONS)
        x, p = sequences(self.shape.length, self.shape.codes), self._law()
        drawn = torch.multinomial(p[labels], 1, generator=generator).squeeze(1)
        return Examples(tokens=x[drawn], labels=labels, classes=CONDITIONS)

    def _law(self) -> Joint:
        if self.drawn_by == "joint":
            return self.p()
        known = {field.name: getattr(self, field.name) for field in attrs.fields(Known)}
        return in_turn(GymTeacher(**known, knows=self.drawn_by)).q
