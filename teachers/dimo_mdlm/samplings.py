"""The named ways to sample an MDLM teacher in many steps, with their sources."""

from collections.abc import Mapping

from dimo_core.choice import Choice
from dimo_core.suggestions import Sampling

_MDLM = "MDLM (arXiv 2406.07524)"


def _ancestral(steps: int, source: str) -> Sampling:
    """The published sampler, and no guidance."""
    guidance = Choice("constant", {"scale": 1.0})
    return Sampling(steps=steps, sampler=Choice("mdlm"), guidance=guidance, source=source)


SAMPLINGS: Mapping[str, Mapping[str, Sampling]] = {
    "text": {
        "ancestral-1024": _ancestral(1024, f"{_MDLM}, ddpm_cache, the sampler of its table"),
        **{f"ancestral-{n}": _ancestral(n, f"{_MDLM}, ddpm_cache, in {n} steps") for n in (256, 64, 16)},
    },
    "small": {f"ancestral-{n}": _ancestral(n, f"{_MDLM}, ddpm_cache, in {n} steps") for n in (64, 16)},
}
"""By scale, as ``recipes`` in ``teacher.yaml`` names it."""
