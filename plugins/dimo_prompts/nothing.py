"""The one condition of teachers that are unconditional: ``Nothing``."""

from collections.abc import Sequence

import attrs

from dimo_core.conditions import Conditioning, from_text
from dimo_core.errors import UsageError
from dimo_core.sources import Conditions, ConditionStream


@attrs.frozen(kw_only=True)
class Same(ConditionStream):
    """One condition, for ever.

    Attributes:
        condition: It.
    """

    condition: str | int

    def read(self, start: int, count: int) -> list[str | int]:
        """The condition, ``count`` times."""
        return [self.condition] * count


@attrs.frozen(kw_only=True)
class Nothing(Conditions):
    """No condition: the empty text, or the only class where a teacher has one class."""

    def open(self, conditioning: Conditioning, *, seed: int) -> Same:
        """Start; the seed changes nothing.

        Raises:
            UsageError: when the teacher has to be told what to draw.
        """
        return Same(condition=self._one(conditioning))

    def balanced(self, conditioning: Conditioning, count: int) -> list[str | int]:
        """The condition, ``count`` times.

        Raises:
            UsageError: as ``open`` does.
        """
        return [self._one(conditioning)] * count

    def parse(self, conditioning: Conditioning, given: Sequence[str]) -> list[str | int]:
        """The empty text, or the only class; of teachers of prompts any prompt.

        Raises:
            UsageError: for anything else.
        """
        one = self._one(conditioning)
        if conditioning.kind == "none" and (wrong := [text for text in given if text]):
            raise UsageError(
                f"the teacher is unconditional, and {wrong[0]!r} was given. Leave --conditions out."
            )
        return [one] * len(given) if conditioning.kind == "none" else from_text(conditioning, given)

    def _one(self, conditioning: Conditioning) -> str | int:
        if conditioning.kind in ("none", "text"):
            return ""
        if conditioning.kind == "label" and len(conditioning.classes) == 1:
            return 0
        raise UsageError(
            f"conditions 'none' gives no condition, but the teacher takes {conditioning.kind!r} conditions"
            f" with {len(conditioning.classes)} classes. Choose a source of that kind: --conditions NAME."
        )
