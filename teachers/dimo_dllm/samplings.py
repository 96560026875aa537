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
    block, half = min(BLOCK, answer), max(answer // 2, -(-answer // BLOCK))
    students = {"by": "entropy", "threshold": 0.5, "block": block}
    sure = _sampling(answer, Choice("threshold", students), "dParallel, sampling its students")
    if family == "llada":
        code, blocks, whole = "LLaDA, generate.py", {"block": block}, {"block": None}
        return {
            "blocks": _sampling(
                answer, Choice("blockwise", blocks), f"{code}, blocks of 32, as students are judged"
            ),
            "whole": _sampling(answer, Choice("blockwise", whole), f"{code}, defaults: one block"),
            "half": _sampling(half, Choice("blockwise", blocks), f"{code}, blocks: two tokens a step"),
            "students": sure,
        }
    readme, own = {"alg": "entropy", "temperature": 0.2, "top_p": 0.95}, {"alg": "origin"}
    return {
        "readme": _sampling(answer, Choice("dream", readme), "Dream, README: a token a step"),
        "origin": _sampling(answer, Choice("dream", own), "Dream, diffusion_generate, defaults"),
        "half": _sampling(half, Choice("dream", readme), "Dream, README: two tokens a step"),
        "students": sure,
    }
