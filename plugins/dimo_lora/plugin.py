"""Registers the generator and the auxiliary ``lora``."""

from dimo_core.hookspecs import Register, hookimpl


@hookimpl
def dimo_register(register: Register) -> None:
    """Offer what this package holds."""
    register(
        "generator",
        "lora",
        "dimo_lora.parts:Lora",
        summary="one forward pass from x_init; trained are adapters on the teacher's weights",
        extra="dimo[lora]",
    )
    register(
        "auxiliary",
        "lora",
        "dimo_lora.parts:LoraDenoiser",
        summary="an MDM of generated tokens; trained are adapters on the teacher's weights",
        extra="dimo[lora]",
    )
