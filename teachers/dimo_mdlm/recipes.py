"""The presets of an MDLM teacher, at both scales.

``idlm`` and ``sdtt`` at the published scale (``text``) make the choices of these methods' papers and code for
OpenWebText; none was run here at that size. At the small scale, of teachers by `dimo pretrain`, they are
as short as was run on the embedded teacher of text (docs/results/text.md); ``few-step``, Di[M]O in several
steps, needs no data.
"""

from collections.abc import Mapping

from dimo_core.suggestions import Recipe

_UNGUIDED = {"name": "constant", "scale": 1.0}
_FROM_MASKS = {"name": "few_step", "r_init": 1.0, "sigma_init": 0.0, "train_embeddings": True}

_IDLM_RATES = {"lr": 1e-6, "warmup": 2500, "clip": None, "ema": 0.9999}
_IDLM: Recipe = {
    "train": {"steps": 50000, "batch_size": 512},
    "generator": {**_FROM_MASKS, "steps": 16},
    "auxiliary": {"name": "denoiser", "soft": 1.0, "label_smoothing": 0.0, "train_embeddings": True},
    "divergence": {"name": "rkl"},
    "guidance": _UNGUIDED,
    "objective": {"name": "idlm", "generator": _IDLM_RATES, "auxiliary": _IDLM_RATES},
}

_SDTT: Recipe = {
    "train": {"steps": 70000, "batch_size": 128},
    "generator": {**_FROM_MASKS, "steps": 16},
    "divergence": {"name": "rkl"},
    "guidance": _UNGUIDED,
    "objective": {
        "name": "sdtt",
        "first_steps": 1024,
        "round_steps": 10000,
        "dropout": True,
        "generator": {"lr": 6e-5, "warmup": 500, "ema": 0.9999},
    },
}

_SMALL_GENERATOR = {
    "lr": 5e-4,
    "warmup": 50,
    "decay": "linear",
    "lr_end": 0.2,
    "beta1": 0.0,
    "beta2": 0.99,
    "clip": 1.0,
    "ema": 0.999,
}
_SMALL_AUXILIARY = {**_SMALL_GENERATOR, "lr": 2e-3, "ema": 0.0}

_FOUR_PASSES = {**_FROM_MASKS, "steps": 4, "order": "halton", "schedule": "linear"}
"""Sites that a pass decides lie far apart, and in each pass equally many."""

_SHORT_GENERATOR = {**_SMALL_GENERATOR, "ema": 0.98}

_SLOW_GENERATOR = {**_SHORT_GENERATOR, "lr": 1e-4, "warmup": 30, "decay": "constant"}
_FAST_AUXILIARY = {**_SLOW_GENERATOR, "lr": 1e-3, "ema": 0.0}

_SOFT = {"name": "denoiser", "soft": 1.0, "label_smoothing": 0.0, "train_embeddings": True}

_SMALL_FEW: Recipe = {
    "train": {"steps": 100, "batch_size": 32},
    "generator": {**_FOUR_PASSES, "r_init": 0.9, "sigma_init": 0.1},
    "auxiliary": _SOFT,
    "divergence": {"name": "fkl"},
    "guidance": _UNGUIDED,
    "objective": {
        "name": "dimo",
        "rollout": "shared",
        "schedule": "linear",
        "teacher_temperature": 0.9,
        "auxiliary_steps": 2,
        "generator": _SLOW_GENERATOR,
        "auxiliary": _FAST_AUXILIARY,
    },
}
"""The auxiliary keeps up, at ten times the rate and with two steps for one: else rare words are lost."""

_SMALL_IMDM: Recipe = {
    "train": {"steps": 300, "batch_size": 32},
    "generator": {**_FOUR_PASSES, "name": "imdm", "noise": 16},
    "auxiliary": _SOFT,
    "divergence": {"name": "fkl"},
    "guidance": _UNGUIDED,
    "objective": {
        "name": "dimo-data",
        "corruption": "posterior",
        "horizon": 0.4,
        "schedule": "linear",
        "teacher_temperature": 0.9,
        "auxiliary_steps": 2,
        "generator": _SLOW_GENERATOR,
        "auxiliary": _FAST_AUXILIARY,
    },
}
"""A pass decides a quarter of the tokens, so only what lies about so far from data is learnt."""

_SMALL_IDLM: Recipe = {
    **_IDLM,
    "train": {"steps": 100, "batch_size": 32},
    "generator": _FOUR_PASSES,
    "objective": {
        "name": "idlm",
        "generator": {**_SHORT_GENERATOR, "lr": 2e-5},
        "auxiliary": {**_SMALL_AUXILIARY, "lr": 3e-4},
    },
}

_SMALL_SDTT: Recipe = {
    **_SDTT,
    "train": {"steps": 360, "batch_size": 32},
    "generator": _FOUR_PASSES,
    "objective": {
        "name": "sdtt",
        "first_steps": 32,
        "round_steps": 120,
        "generator": {**_SMALL_GENERATOR, "ema": 0.99},
    },
}

RECIPES: Mapping[str, Mapping[str, Recipe]] = {
    "text": {"idlm": _IDLM, "sdtt": _SDTT},
    "small": {"few-step": _SMALL_FEW, "idlm": _SMALL_IDLM, "sdtt": _SMALL_SDTT, "imdm": _SMALL_IMDM},
}
"""By scale, as ``recipes`` in ``teacher.yaml`` names it."""
