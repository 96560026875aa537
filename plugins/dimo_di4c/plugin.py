"""Registers the generator ``mixture`` and the objectives ``di4c`` and ``di4c-d``."""

from dimo_core.hookspecs import Register, hookimpl


@hookimpl
def dimo_register(register: Register) -> None:
    """Offer what this package holds."""
    register(
        "generator",
        "mixture",
        "dimo_di4c.generator:Mixture",
        summary="a few steps of the confidence sampler, a latent in each (Di4C)",
    )
    register(
        "objective",
        "di4c",
        "dimo_di4c.objective:Di4C",
        summary="a mixture agrees with the teacher's short step and its own jump",
    )
    register(
        "objective",
        "di4c-d",
        "dimo_di4c.objective:Di4CD",
        summary="di4c with real data for the correlations (the published checkpoint)",
    )
