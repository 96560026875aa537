"""Registers the teachers ``mdlm`` and ``text``."""

from dimo_core.hookspecs import Register, hookimpl


@hookimpl
def dimo_register(register: Register) -> None:
    """Teachers of text."""
    register(
        "teacher",
        "mdlm",
        "dimo_mdlm.teacher:Mdlm",
        summary="masked diffusion language model: MDLM as published, or a small one of `dimo pretrain`",
        extra="dimo[text]",
    )
    register(
        "teacher",
        "text",
        "dimo_mdlm.embedded:Text",
        summary="the embedded MDLM: passages of the King James Version, of six kinds",
    )
