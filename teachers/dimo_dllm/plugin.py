"""Registers the teachers ``llada`` and ``dream``."""

from dimo_core.hookspecs import Register, hookimpl


@hookimpl
def dimo_register(register: Register) -> None:
    """Two teachers."""
    register(
        "teacher",
        "llada",
        "dimo_dllm.teacher:Llada",
        summary="text, an answer to a prompt: LLaDA-8B, as published",
        extra="dimo[dllm]",
    )
    register(
        "teacher",
        "dream",
        "dimo_dllm.teacher:Dream",
        summary="text, an answer to a prompt: Dream-7B, as published",
        extra="dimo[dllm]",
    )
