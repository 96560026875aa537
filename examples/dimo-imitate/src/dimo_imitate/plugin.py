"""Registers what this package offers, and imports nothing heavy."""

from dimo_core.hookspecs import Register, hookimpl


@hookimpl
def dimo_register(register: Register) -> None:
    """Offer what it holds."""
    register(
        "objective",
        "imitate",
        "dimo_imitate.objective:Imitate",
        summary="what the teacher predicts in one pass, learnt by the generator",
    )
