"""Naming a plugin together with its options, as config files, recipes and saved folders do."""

from collections.abc import Mapping
from typing import Any

import attrs


@attrs.frozen
class Choice:
    """A plugin by registry name, with options that differ from its defaults.

    Attributes:
        name: Registered name.
        options: Values by option name.
    """

    name: str
    options: Mapping[str, Any] = attrs.field(factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """``{"name": ..., **options}``, the form that YAML holds."""
        return {"name": self.name, **self.options}

    @classmethod
    def from_dict(cls, data: "Mapping[str, Any] | str") -> "Choice":
        """Read the YAML form; a bare string is a name without options."""
        if isinstance(data, str):
            return cls(data)
        options = dict(data)
        return cls(options.pop("name"), options)
