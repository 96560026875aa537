"""Registers what this package offers, and imports nothing heavy."""

from dimo_core.hookspecs import Register, hookimpl


@hookimpl
def dimo_register(register: Register) -> None:
    """Offer what it holds."""
    register(
        "teacher",
        "verse",
        "dimo_verse.teacher:Verse",
        summary="lines of letters, given a prompt",
    )
