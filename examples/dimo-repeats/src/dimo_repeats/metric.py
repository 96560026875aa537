"""The metric ``repeats``."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import attrs
from dimo_core.errors import UsageError
from dimo_core.metric import Metric, Samples
from dimo_core.teacher import Teacher


@attrs.frozen(kw_only=True)
class Repeats(Metric):
    """Share of tokens that are the token before them once more, over all samples.

    Attributes:
        distance: How far before, in sites.
    """

    better: ClassVar[Mapping[str, Literal["larger", "smaller"]]] = {
        "repeats": "smaller",
    }
    needs: ClassVar[frozenset[str]] = frozenset({"tokens"})

    distance: int = attrs.field(default=1, validator=attrs.validators.ge(1))

    def compute(self, samples: Samples, reference: Samples | None, teacher: Teacher) -> Mapping[str, float]:
        """``repeats``.

        Raises:
            UsageError: for samples without tokens, or with too few.
        """
        x, far = samples.tokens, self.distance
        if x is None or x.shape[1] <= far:
            raise UsageError(f"metric 'repeats' needs samples of over {far} tokens each")
        same = x[:, far:] == x[:, :-far]
        if samples.counted is not None:  # not what conditions give, nor what is behind the end
            same = same[samples.counted[:, far:] & samples.counted[:, :-far]]
        return {"repeats": same.double().mean().item()}
