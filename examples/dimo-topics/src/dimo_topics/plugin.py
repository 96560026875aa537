"""Registers what this package offers, and imports nothing heavy."""

from dimo_core.hookspecs import Register, hookimpl


@hookimpl
def dimo_register(register: Register) -> None:
    """Offer what it holds."""
    register(
        "conditions",
        "topics",
        "dimo_topics.conditions:Topics",
        summary="a few texts, drawn at random",
    )
