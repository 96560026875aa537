"""Registers what this package offers, and imports nothing heavy."""

from dimo_core.hookspecs import Register, hookimpl


@hookimpl
def dimo_register(register: Register) -> None:
    """Offer what it holds."""
    register(
        "metric",
        "repeats",
        "dimo_repeats.metric:Repeats",
        summary="share of tokens that are the token before them once more",
    )
