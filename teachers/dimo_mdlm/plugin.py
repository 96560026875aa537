"""Registers the teacher ``mdlm``."""

from dimo_core.hookspecs import Register, hookimpl


@hookimpl
def dimo_register(register: Register) -> None:
    """One teacher."""
    register(
        "teacher",
        "mdlm",
        "dimo_mdlm.teacher:Mdlm",
        summary="masked diffusion language model: MDLM as published, or a small one of `dimo pretrain`",
        extra="dimo[text]",
    )
