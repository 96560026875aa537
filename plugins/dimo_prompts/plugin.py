"""Registers the sources of conditions."""

from dimo_core.hookspecs import Register, hookimpl


@hookimpl
def dimo_register(register: Register) -> None:
    """Offer what this package holds."""
    register("conditions", "labels", "dimo_prompts.labels:Labels", summary="class labels, drawn uniformly")
