"""Registers what this package offers, and imports nothing heavy."""

from dimo_core.hookspecs import Register, hookimpl


@hookimpl
def dimo_register(register: Register) -> None:
    """Offer what it holds."""
    register(
        "sampler",
        "raster",
        "dimo_raster.sampler:Raster",
        summary="from the first site to the last, equally many in each step",
    )
