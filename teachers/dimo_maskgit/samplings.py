"""The named ways to sample a MaskGIT teacher in many steps, with their sources.

The sources count guidance as w and let it grow over the steps: s = 1 + w i / (n - 1), which is the guidance
``ramp`` with ``scale`` 1 + w. Their softmax temperature multiplies the logits and ours divides them, so their
1.3 is our 1 / 1.3.

The Di[M]O paper says of its teacher rows (appendix C): 16 steps, temperature 1.3, arccos, positions chosen at
random, CFG 2.5. What it does not say is taken like this:

* which way the temperature acts: as in the authors' own sampler, whose default 1.3 multiplies the logits;
* how CFG is counted: as in their training code, z_u + s (z_c - z_u), with the same s at every step;
* how many tokens a step decides: the shares of MaskGIT-pytorch v1.0. Two steps then decide 1 and 255 tokens,
  which explains why the paper's two steps (FID 91.35) are about as bad as one;
* the other rows: the same settings in 8, 4 and 2 steps.
"""

from collections.abc import Mapping

import attrs

from dimo_core.choice import Choice
from dimo_core.suggestions import Sampling

_V1 = "MaskGIT-pytorch v1.0"
_EMBEDDED = "Embedded teacher, seed 0, 3,000 samples"
_DIMO_CODE = "Di[M]O, released code"
_DIMO_PAPER = "Di[M]O (arXiv 2503.15457), appendix C, the teacher's rows"


def _confident(
    steps: int, w: float, gumbel: float, source: str, *, sm_temp: float = 1.0, counts: str = "share"
) -> Sampling:
    """The confidence sampler with ramped guidance, in the sources' own numbers."""
    options = {
        "schedule": "arccos",
        "counts": counts,
        "order": "confidence",
        "gumbel": gumbel,
        "temperature": 1 / sm_temp,
    }
    return Sampling(
        steps=steps,
        sampler=Choice("maskgit", options),
        guidance=Choice("ramp", {"scale": 1 + w}),
        source=source,
    )


def _paper(steps: int, remark: str = "") -> Sampling:
    """A teacher row of the Di[M]O paper."""
    options = {"schedule": "arccos", "counts": "share", "order": "random", "temperature": 1 / 1.3}
    return Sampling(
        steps=steps,
        sampler=Choice("maskgit", options),
        guidance=Choice("constant", {"scale": 2.5}),
        source=f"{_DIMO_PAPER}{remark}",
    )


_V1_DEFAULT = _confident(
    8,
    3.0,
    4.5,
    f"{_V1}, README: FID 6.80, IS 214.0, precision .82, recall .51, density 1.25, coverage .84",
)

_IMAGENET: Mapping[str, Sampling] = {
    "v1.0": _V1_DEFAULT,
    "v1.0-demo": _confident(32, 9.0, 7.0, f"{_V1}, demo, 'quality': judged by eye only", sm_temp=1.3),
    "dimo-sample": _confident(
        8, 4.5, 7.0, f"{_DIMO_CODE}, defaults of MaskGit_src/sample.py: no numbers", sm_temp=1.3
    ),
    "dimo-validation": _confident(12, 3.0, 4.5, f"{_DIMO_CODE}, validation during training: no numbers"),
    "di4c": _confident(
        4,
        3.0,
        4.5,
        "Di4C (arXiv 2410.08709), MaskGIT fork; its README evaluates its own students with w = 6 "
        "(--guidance.scale 7)",
        counts="cumulative",
    ),
    "v1.0-512": _confident(15, 2.8, 7.0, f"{_V1}, 512 px: FID 7.26, IS 223.1"),
    "paper-16": _paper(16),
    "paper-8": _paper(8, ", settings of its 16 steps"),
    "paper-4": _paper(4, ", settings of its 16 steps"),
    "paper-2": _paper(2, ", settings of its 16 steps: FID 91.35"),
}


def _small(order: str, source: str) -> Sampling:
    """As the embedded teacher is judged, unguided."""
    options = {"schedule": "cosine", "counts": "cumulative", "order": order, "gumbel": 4.5}
    return Sampling(
        steps=16,
        sampler=Choice("maskgit", options),
        guidance=Choice("constant", {"scale": 1.0}),
        source=source,
    )


_SMALL: Mapping[str, Sampling] = {
    "confidence": _small(
        "confidence", f"docs/results, digits: the table's teacher. {_EMBEDDED}: FID 0.454, readable .932"
    ),
    "random-order": _small(
        "random",
        f"The same in random order: the teacher's own distribution. {_EMBEDDED}: FID 0.502, readable .879",
    ),
    "v1.0": attrs.evolve(
        _V1_DEFAULT,
        source=f"{_V1}, README, as published for ImageNet. {_EMBEDDED}: FID 0.703, readable .944",
    ),
}

SAMPLINGS: Mapping[str, Mapping[str, Sampling]] = {"small": _SMALL, "imagenet": _IMAGENET}
"""By scale, as ``recipes`` in ``teacher.yaml`` names it."""
