"""Registers the samplers."""

from dimo_core.hookspecs import Register, hookimpl


@hookimpl
def dimo_register(register: Register) -> None:
    """One sampler."""
    register(
        "sampler",
        "maskgit",
        "dimo_samplers.maskgit:MaskGitSampler",
        summary="MaskGIT: keep the most confident tokens of each step, with Gumbel noise, or random ones",
    )
