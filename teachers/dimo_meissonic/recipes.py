"""The presets of the Meissonic teacher, at both scales.

``paper`` is what the authors' script runs: one GPU, 8 micro-batches of 2. ``fast`` trains the same way with
the least work: one rollout and one auxiliary forward pass serve both updates, and activations are kept.
The others, at the small scale alone, are one for each further method of few steps.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dimo_core.suggestions import Recipe

BETAS = (-0.1, 0.2)
"""Jeffrey's beta outside of these diverged in the paper's experiments with this teacher."""

_PAPER: Recipe = {
    "teacher": {"name": "meissonic", "timestep": "zero", "gradient_checkpointing": True},
    "train": {"steps": 20000, "batch_size": 16, "accumulate": 8, "precision": "bf16"},
    "generator": {"name": "one_step", "r_init": 0.5, "sigma_init": 0.3, "train_embeddings": False},
    "auxiliary": {"name": "denoiser", "label_smoothing": 0.1, "train_embeddings": False},
    "divergence": {"name": "jeffrey", "beta": 0.0},
    "guidance": {"name": "constant", "scale": 4.0},
    "conditions": {"name": "prompts"},
    "objective": {
        "name": "dimo",
        "rollout": "fresh",
        "weight": "sum",
        "schedule": "cosine",
        "ratio_bounds": [0.02, 0.98],
        "masking": "exact",
        "generator": {"lr": 1e-6, "warmup": 100, "eps": 1e-6, "clip": 1.0, "ema": 0.9999},
        "auxiliary": {"lr": 1e-6, "warmup": 100, "eps": 1e-6, "clip": None},
    },
}

_FAST: Recipe = {
    **_PAPER,
    "teacher": {**_PAPER["teacher"], "gradient_checkpointing": False},
    "objective": {**_PAPER["objective"], "rollout": "shared"},
}

_SMALL_GENERATOR = {
    "lr": 5e-4,
    "warmup": 200,
    "decay": "linear",
    "lr_end": 0.1,
    "beta1": 0.0,
    "beta2": 0.99,
    "clip": 1.0,
    "ema": 0.999,
}
_SMALL_AUXILIARY = {**_SMALL_GENERATOR, "lr": 2e-3, "warmup": 50, "ema": 0.0}
_SMALL: Recipe = {
    "teacher": {"name": "meissonic", "timestep": "zero", "text_cache": 32768},
    "train": {"steps": 1600, "batch_size": 32},
    "generator": {
        "name": "one_step",
        "r_init": 0.7,
        "sampling_r_init": 0.8,
        "sigma_init": 0.1,
        "train_embeddings": True,
        "temperature": 0.3,
    },
    "auxiliary": {"name": "denoiser", "label_smoothing": 0.0, "train_embeddings": True},
    "divergence": {"name": "jeffrey", "beta": 0.2},
    "guidance": {"name": "constant", "scale": 2.0},
    "objective": {
        "name": "dimo",
        "rollout": "shared",
        "teacher_temperature": 0.8,
        "schedule": "linear",
        "masking": "exact",
        "generator": _SMALL_GENERATOR,
        "auxiliary": _SMALL_AUXILIARY,
    },
}

_SMALL_PAPER: Recipe = {
    **_SMALL,
    "generator": {**_SMALL["generator"], "train_embeddings": False},
    "auxiliary": {**_SMALL["auxiliary"], "label_smoothing": 0.1, "train_embeddings": False},
    "objective": {
        **_SMALL["objective"],
        "rollout": "fresh",
        "schedule": "cosine",
        "ratio_bounds": [0.02, 0.98],
    },
}

_SMALL_FEW: Recipe = {
    **_SMALL,
    "generator": {
        **_SMALL["generator"],
        "name": "few_step",
        "steps": 4,
        "order": "confidence",
        "sampling_r_init": 0.9,
    },
}

_FROM_MASKS = {"name": "few_step", "steps": 4, "r_init": 1.0, "sigma_init": 0.0, "train_embeddings": True}
_CAREFUL = {**_SMALL_GENERATOR, "lr": 5e-6}
_CAREFUL_AUXILIARY = {**_SMALL_AUXILIARY, "lr": 3e-4}
_SMALL_IDLM: Recipe = {
    **_SMALL,
    "train": {"steps": 600, "batch_size": 32},
    "generator": _FROM_MASKS,
    "auxiliary": {**_SMALL["auxiliary"], "soft": 1.0},
    "divergence": {"name": "rkl"},
    "objective": {"name": "idlm", "generator": _CAREFUL, "auxiliary": _CAREFUL_AUXILIARY},
}

_SMALL_DMMD: Recipe = {
    **_SMALL_IDLM,
    "auxiliary": {**_SMALL["auxiliary"], "teacher_weight": 1.0},
    "objective": {**_SMALL_IDLM["objective"], "corruption": "posterior", "horizon": 0.25},
}

_ALONE = {key: _SMALL[key] for key in ("teacher", "guidance")}
"""What a recipe without an auxiliary has of the others."""

_SMALL_SDTT: Recipe = {
    **_ALONE,
    "train": {"steps": 600, "batch_size": 32},
    "generator": _FROM_MASKS,
    "divergence": {"name": "rkl"},
    "objective": {
        "name": "sdtt",
        "round_steps": 200,
        "generator": {**_SMALL_GENERATOR, "warmup": 50, "ema": 0.99},
    },
}

_SMALL_PAIRS: Recipe = {
    **_ALONE,
    "train": {"steps": 1600, "batch_size": 32},
    "generator": _SMALL["generator"],
    "objective": {"name": "pairs", "label_smoothing": 0.0, "generator": _SMALL_GENERATOR},
    "data": {"name": "samples"},
}

_SMALL_DI4CD: Recipe = {
    **_ALONE,
    "train": {"steps": 400, "batch_size": 8},
    "generator": {"name": "mixture", "steps": 4, "latent_features": 32},
    "objective": {
        "name": "di4c-d",
        "latents": 4,
        "generator": {"lr": 3e-4, "warmup": 20, "decay": "linear", "ema": 0.99},
    },
}

RECIPES: Mapping[str, Mapping[str, Recipe]] = {
    "published": {"fast": _FAST, "paper": _PAPER},
    "small": {
        "fast": _SMALL,
        "paper": _SMALL_PAPER,
        "few-step": _SMALL_FEW,
        "imdm": {**_SMALL_FEW, "generator": {**_FROM_MASKS, "name": "imdm", "steps": 2, "noise": 16}},
        "idlm": _SMALL_IDLM,
        "d-mmd": _SMALL_DMMD,
        "sdtt": _SMALL_SDTT,
        "pairs": _SMALL_PAIRS,
        "di4c": {**_SMALL_DI4CD, "objective": {**_SMALL_DI4CD["objective"], "name": "di4c"}},
        "di4c-d": _SMALL_DI4CD,
    },
}
"""The named presets, by scale: of published folders, and of teachers by ``dimo pretrain``."""


def advice(config: Mapping[str, Any]) -> Sequence[str]:
    """A warning for a beta with which the paper's experiments diverged.

    Args:
        config: The resolved configuration of a run.
    """
    divergence = config.get("divergence", {})
    beta = 1.0 if divergence.get("name") == "rkl" else divergence.get("beta", 0.0)
    if divergence.get("name") not in ("jeffrey", "rkl") or BETAS[0] <= beta <= BETAS[1]:
        return ()
    return (
        f"the divergence is Jeffrey's with beta {beta:g}. With this teacher, the Di[M]O paper saw "
        f"training diverge outside {list(BETAS)}: watch the samples, or set --divergence.beta.",
    )
