"""The door to ``Choice``: a plugin by name, with options, as files and recipes hold it."""

from dimo_core.suggestions import Choice

__all__ = ["Choice"]
