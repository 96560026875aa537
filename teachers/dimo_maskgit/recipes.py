"""The presets of the MaskGIT teacher: ``fast`` and ``paper``, at both scales.

``paper`` makes the choices of the authors' released code; at the small scale only lengths and rates
differ from the published run. ``fast`` does the same training with the least work.
"""

from collections.abc import Mapping

from dimo_core.teacher import Recipe

_PAPER_CHOICES = {
    "objective": {"name": "dimo", "rollout": "fresh", "dropout": True, "score_dropout": True},
    "auxiliary": {"name": "denoiser", "label_smoothing": 0.1},
}

RECIPES: Mapping[str, Mapping[str, Recipe]] = {
    "small": {"fast": {}, "paper": _PAPER_CHOICES},
    "imagenet": {"fast": {}, "paper": _PAPER_CHOICES},
}
