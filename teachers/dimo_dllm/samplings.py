"""The named ways to sample LLaDA and Dream, with their sources."""

from collections.abc import Mapping

from dimo_core.choice import Choice
from dimo_core.suggestions import Sampling
from dimo_dllm.architecture import Family

BLOCK = 32
"""Sites of a block in what was published of LLaDA and its distilled students."""


def _sampling(steps: int, sampler: Choice, source: str) -> Sampling:
    return Sampling(steps=steps, sampler=sampler, guidance=Choice("constant", {"scale": 1.0}), source=source)


def samplings(family: Family, answer: int) -> Mapping[str, Sampling]:
    """By name, for answers of a number of tokens."""
    block = min(BLOCK, answer)
    if family == "llada":
        blocks, whole = (Choice("blockwise", {"block": size}) for size in (block, None))
        return {
            "blocks": _sampling(
                answer,
                blocks,
                "LLaDA, generate.py, blocks of 32 as its students are evaluated: a token a step",
            ),
            "whole": _sampling(answer, whole, "LLaDA, generate.py, defaults: one block, a token a step"),
            "half": _sampling(
                max(answer // 2, -(-answer // block)), blocks, "The same in blocks, two tokens a step"
            ),
        }
    readme = {"alg": "entropy", "temperature": 0.2, "top_p": 0.95}
    return {
        "readme": _sampling(answer, Choice("dream", readme), "Dream, README: a token a step"),
        "origin": _sampling(
            answer, Choice("dream", {"alg": "origin"}), "Dream, defaults of diffusion_generate"
        ),
        "half": _sampling(
            max(answer // 2, 1), Choice("dream", readme), "As in the README, two tokens a step"
        ),
    }
