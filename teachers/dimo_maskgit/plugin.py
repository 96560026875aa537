"""Registers the teacher ``maskgit``."""

from dimo_core.hookspecs import Register, hookimpl


@hookimpl
def dimo_register(register: Register) -> None:
    """One teacher."""
    register(
        "teacher",
        "maskgit",
        "dimo_maskgit.teacher:MaskGit",
        summary="class-conditional MaskGIT; without a checkpoint, the embedded teacher of handwritten digits",
    )
