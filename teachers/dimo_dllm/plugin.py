"""Registers the teachers ``llada`` and ``dream``, and the command ``adapter``."""

from dimo_core.hookspecs import Register, hookimpl


@hookimpl
def dimo_register(register: Register) -> None:
    """Two teachers, and a command that hands on what their adapters learnt."""
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
    register(
        "command",
        "adapter",
        "dimo_dllm.adapters:ExportAdapter",
        summary="a trained generator of llada or dream as an adapter for transformers and peft",
    )
