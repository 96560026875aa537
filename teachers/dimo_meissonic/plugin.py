"""Registers the teacher ``meissonic``."""

from dimo_core.hookspecs import Register, hookimpl


@hookimpl
def dimo_register(register: Register) -> None:
    """One teacher."""
    register(
        "teacher",
        "meissonic",
        "dimo_meissonic.teacher:Meissonic",
        summary="text to image: Meissonic, as published (1024 pixels) or a small one of `dimo pretrain`",
        extra="dimo[meissonic]",
    )
