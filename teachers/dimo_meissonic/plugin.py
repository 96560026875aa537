"""Registers the teacher ``meissonic``."""

from dimo_core.hookspecs import Register, hookimpl


@hookimpl
def dimo_register(register: Register) -> None:
    """One teacher."""
    register(
        "teacher",
        "meissonic",
        "dimo_meissonic.teacher:Meissonic",
        summary="text to image, 1024 pixels: Meissonic (needs its published weights)",
        extra="dimo[meissonic]",
    )
