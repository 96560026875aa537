"""Registers the sources of conditions."""

from dimo_core.hookspecs import Register, hookimpl


@hookimpl
def dimo_register(register: Register) -> None:
    """Offer what this package holds."""
    register("conditions", "labels", "dimo_prompts.labels:Labels", summary="class labels, drawn uniformly")
    register(
        "conditions",
        "none",
        "dimo_prompts.nothing:Nothing",
        summary="no condition, for unconditional teachers, and for prompts that say nothing",
    )
    register(
        "conditions",
        "prompts",
        "dimo_prompts.prompts:Prompts",
        summary="prompts from webdataset shards, text files or JSON lines, read as a stream",
    )
    register(
        "conditions", "prompt-list", "dimo_prompts.prompts:PromptList", summary="a few prompts, written out"
    )
