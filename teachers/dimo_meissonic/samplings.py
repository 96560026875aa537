"""The named ways to sample the Meissonic teacher in many steps, with their sources.

All are aMUSEd's sampler: cosine schedule, token counts rounded down, order of confidence with Gumbel noise
that falls from 2 to 0, no temperature on the logits. The sources count guidance as we do.

Their sampler tells the network the index of its step. Ours tells it what ``--teacher.timestep`` says: zero,
unless told otherwise, as in distillation. Each source says so.
"""

from collections.abc import Mapping

from dimo_core.choice import Choice
from dimo_core.suggestions import Sampling

_OPTIONS = {"schedule": "cosine", "counts": "amused", "order": "confidence", "gumbel": 2.0}
_TIMESTEP = "Published with --teacher.timestep step_index; the default, zero, is that of distillation"
_PAPER = "Di[M]O (arXiv 2503.15457), the teacher's rows"


def _sampling(steps: int, scale: float, source: str) -> Sampling:
    return Sampling(
        steps=steps,
        sampler=Choice("maskgit", dict(_OPTIONS)),
        guidance=Choice("constant", {"scale": scale}),
        source=f"{source}. {_TIMESTEP}",
    )


SAMPLINGS: Mapping[str, Sampling] = {
    "meissonic": _sampling(
        64,
        9.0,
        "Meissonic, inference.py, and the baseline script of Di[M]O. COCO-val 30k, by Di[M]O: FID 48.27, "
        "CLIP .321",
    ),
    "pipeline": _sampling(
        48, 9.0, "Meissonic, defaults of its pipeline; Monetico (512 px) too. HPS v2.0, by Di[M]O: 28.83"
    ),
    "paper-32": _sampling(32, 9.0, f"{_PAPER}: HPS v2.0 28.44; COCO-val 30k FID 50.13, CLIP .318"),
    "paper-16": _sampling(16, 9.0, f"{_PAPER}: HPS v2.0 27.90; COCO-val 30k FID 63.29, CLIP .307"),
    "paper-8": _sampling(8, 9.0, f"{_PAPER}: HPS v2.0 26.46; COCO-val 30k FID 96.75, CLIP .280"),
    "paper-4": _sampling(4, 9.0, f"{_PAPER}: HPS v2.0 24.66"),
    "paper-2": _sampling(2, 9.0, f"{_PAPER}: HPS v2.0 22.98"),
    "paper-48-cfg4": _sampling(48, 4.0, f"{_PAPER}, guidance 4: HPS v2.0 27.67"),
}
"""By name. The paper does not say which guidance its COCO numbers belong to."""
