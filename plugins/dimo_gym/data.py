"""The data ``gym``: draws from a known joint distribution."""

from collections.abc import Sequence

import attrs
import torch
from attrs import validators as v

from dimo_core.draws import stream_seed
from dimo_core.errors import UsageError
from dimo_core.sources import Data, Examples
from dimo_gym.joints import CONDITIONS, Known, sequences

SPLITS = ("teacher", "reference")


@attrs.frozen(kw_only=True)
class GymData(Known, Data):
    """Draws from a known joint distribution, as many of each condition.

    Attributes:
        joint: table, markov, ising or halves, as in ``Known``.
        length: Sites L; null for the joint's own.
        codes: Codes V; null for the joint's own.
        strength: How strong the dependence is; null for the joint's own.
        seed: Fixes what is drawn at random.
        count: How many.
    """

    count: int = attrs.field(default=8192, validator=v.gt(1))

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
        x, p = sequences(self.shape.length, self.shape.codes), self.p()
        drawn = torch.multinomial(p[labels], 1, generator=generator).squeeze(1)
        return Examples(tokens=x[drawn], labels=labels, classes=CONDITIONS)
