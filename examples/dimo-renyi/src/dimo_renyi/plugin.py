"""Registers what this package offers, and imports nothing heavy."""

from dimo_core.hookspecs import Register, hookimpl


@hookimpl
def dimo_register(register: Register) -> None:
    """Offer what it holds."""
    register(
        "divergence",
        "renyi",
        "dimo_renyi.divergence:Renyi",
        summary="log(sum p^a q^(1-a)) / (a - 1), order a in (0, 1)",
    )
