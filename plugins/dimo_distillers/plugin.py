"""Registers the objectives of this package."""

from dimo_core.hookspecs import Register, hookimpl


@hookimpl
def dimo_register(register: Register) -> None:
    """Offer what this package holds."""
    register(
        "objective",
        "sdtt",
        "dimo_distillers.sdtt:Sdtt",
        summary="self-distillation through time: one step learns what two of the teacher's give",
    )
