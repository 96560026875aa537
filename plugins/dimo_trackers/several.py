"""The tracker ``several``."""

from collections.abc import Callable, Mapping
from typing import Any

import attrs
from attrs import validators as v

from dimo_core.registry import Registry, built
from dimo_core.suggestions import Choice
from dimo_core.tracker import Spared, Tracker


@attrs.frozen(kw_only=True, slots=False)
class Several(Tracker):
    """Several trackers; one that fails is left out, and the others go on.

    Attributes:
        trackers: Their names, or mappings with ``name`` and options.
    """

    trackers: tuple[str | dict[str, Any], ...] = attrs.field(converter=tuple, validator=v.min_len(1))

    def __attrs_post_init__(self) -> None:
        """Build them.

        Raises:
            UsageError: for an unknown tracker, or options that it refuses.
        """
        registry = Registry.discover()
        chosen = [built(registry, "tracker", Choice.from_dict(one)) for one in self.trackers]
        vars(self)["chosen"] = tuple(map(Spared, chosen))

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for tracker in vars(self)["chosen"]:
            call(tracker)

    def start(self, folder: str, config: Mapping[str, Any]) -> None:
        """Tell each."""
        self._each(lambda tracker: tracker.start(folder, config))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Tell each."""
        self._each(lambda tracker: tracker.scalars(step, values))

    def picture(self, step: int, name: str, path: str) -> None:
        """Tell each."""
        self._each(lambda tracker: tracker.picture(step, name, path))

    def finish(self) -> None:
        """Tell each."""
        self._each(lambda tracker: tracker.finish())
