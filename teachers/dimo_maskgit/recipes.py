"""The presets of the MaskGIT teacher, at both scales.

``paper`` makes the choices of the authors' released code. ``fast`` trains the same way with the least work:
one rollout and one auxiliary forward pass serve both updates, and no dropout blurs the scores. ``di4c-d``
trains a mixture for four steps instead: as published, or with few latents and a higher rate where small.
The others, at the small scale alone, are one for each further method of few steps.

At the small scale (teachers by ``dimo pretrain`` with a codebook of patches) ``fast`` and ``paper`` share
rates, lengths and re-masking, which were tuned on the embedded digits; docs/results tells how.
"""

from collections.abc import Mapping

from dimo_core.suggestions import Recipe

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
_SMALL: Recipe = {
    "train": {"steps": 3000, "batch_size": 64},
    "generator": {"name": "one_step", "r_init": 0.6, "sigma_init": 0.1, "train_embeddings": True},
    "auxiliary": {"name": "denoiser", "label_smoothing": 0.0, "train_embeddings": True},
    "guidance": {"name": "constant", "scale": 1.0},
    "objective": {
        "name": "dimo",
        "rollout": "shared",
        "schedule": "linear",
        "teacher_temperature": 0.85,
        "generator": _SMALL_GENERATOR,
        "auxiliary": _SMALL_AUXILIARY,
    },
}

_IMAGENET: Recipe = {
    "train": {"steps": 50000, "batch_size": 64, "precision": "bf16"},
    "generator": {"name": "one_step", "r_init": 0.6, "sigma_init": 0.1},
    "auxiliary": {"name": "denoiser", "label_smoothing": 0.1},
    "divergence": {"name": "jeffrey", "beta": 0.0},
    "guidance": {"name": "constant", "scale": 2.0},
    "objective": {
        "name": "dimo",
        "rollout": "shared",
        "weight": "sum",
        "schedule": "arccos",
        "masking": "exact",
        "generator": {"lr": 1e-5, "warmup": 100, "eps": 1e-6, "clip": 1.0, "ema": 0.9999},
        "auxiliary": {"lr": 1e-5, "warmup": 100, "eps": 1e-6, "clip": None},
    },
}


def _as_released(recipe: Recipe) -> Recipe:
    """The same with a fresh rollout for the auxiliary, dropout everywhere, and the mask token scored."""
    return {
        **recipe,
        "teacher": {"name": "maskgit", "mask_logit": "keep"},
        "generator": {**recipe["generator"], "train_embeddings": False},
        "auxiliary": {**recipe["auxiliary"], "train_embeddings": False},
        "objective": {**recipe["objective"], "rollout": "fresh", "dropout": True, "score_dropout": True},
    }


_DI4C: Recipe = {
    "guidance": {"name": "constant", "scale": 1.0},
    "generator": {"name": "mixture", "steps": 4},
    "objective": {"name": "di4c-d"},
}

_SMALL_DI4C: Recipe = {
    **_DI4C,
    "train": {"steps": 600, "batch_size": 16},
    "generator": {**_DI4C["generator"], "latent_features": 32},
    "objective": {
        **_DI4C["objective"],
        "latents": 8,
        "generator": {"lr": 5e-4, "warmup": 20, "decay": "linear", "ema": 0.99},
    },
}

_SMALL_FEW: Recipe = {
    **_SMALL,
    "generator": {**_SMALL["generator"], "name": "few_step", "steps": 2, "temperature": 0.7},
    "objective": {**_SMALL["objective"], "teacher_temperature": 0.8},
}

_FROM_MASKS = {"name": "few_step", "steps": 4, "r_init": 1.0, "sigma_init": 0.0, "train_embeddings": True}
_CAREFUL = {**_SMALL_GENERATOR, "lr": 5e-6}
_CAREFUL_AUXILIARY = {**_SMALL_AUXILIARY, "lr": 3e-4}
_SMALL_IDLM: Recipe = {
    **_SMALL,
    "train": {"steps": 1000, "batch_size": 64},
    "generator": _FROM_MASKS,
    "auxiliary": {**_SMALL["auxiliary"], "soft": 1.0},
    "divergence": {"name": "rkl"},
    "objective": {"name": "idlm", "generator": _CAREFUL, "auxiliary": _CAREFUL_AUXILIARY},
}
"""Larger rates lead a generator of masks alone to one mode: 2e-4 left one digit of each class, 2e-5 few."""

_SMALL_DMMD: Recipe = {
    **_SMALL_IDLM,
    "auxiliary": {**_SMALL["auxiliary"], "teacher_weight": 1.0},
    "objective": {**_SMALL_IDLM["objective"], "corruption": "posterior", "horizon": 0.25},
}

_SMALL_SDTT: Recipe = {
    "train": {"steps": 1200, "batch_size": 64},
    "generator": _FROM_MASKS,
    "divergence": {"name": "rkl"},
    "guidance": {"name": "constant", "scale": 1.0},
    "objective": {"name": "sdtt", "round_steps": 400, "generator": {**_SMALL_GENERATOR, "ema": 0.99}},
}

_SMALL_PAIRS: Recipe = {
    "train": {"steps": 3000, "batch_size": 64},
    "generator": _SMALL["generator"],
    "objective": {"name": "pairs", "label_smoothing": 0.0, "generator": _SMALL_GENERATOR},
    "data": {"name": "samples"},
}

_IMAGENET_DI4C: Recipe = {
    **_DI4C,
    "teacher": {"name": "maskgit", "mask_logit": "keep"},
    "train": {"steps": 30000, "batch_size": 4, "precision": "bf16"},
    "generator": {**_DI4C["generator"], "guidance": 7.0},
}
"""As published (with fp16 there), for as long as a summary by others says."""

RECIPES: Mapping[str, Mapping[str, Recipe]] = {
    "small": {
        "fast": _SMALL,
        "paper": _as_released(_SMALL),
        "few-step": _SMALL_FEW,
        "imdm": {**_SMALL_FEW, "generator": {**_FROM_MASKS, "name": "imdm", "steps": 2, "noise": 16}},
        "idlm": _SMALL_IDLM,
        "d-mmd": _SMALL_DMMD,
        "sdtt": _SMALL_SDTT,
        "pairs": _SMALL_PAIRS,
        "di4c": {**_SMALL_DI4C, "objective": {**_SMALL_DI4C["objective"], "name": "di4c"}},
        "di4c-d": _SMALL_DI4C,
    },
    "imagenet": {"fast": _IMAGENET, "paper": _as_released(_IMAGENET), "di4c-d": _IMAGENET_DI4C},
}
