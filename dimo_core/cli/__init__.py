"""The command ``dimo``. Importing it imports no torch."""

from dimo_core.cli.dispatch import main

__all__ = ["main"]
