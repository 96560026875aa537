"""The presets of the Meissonic teacher.

``paper`` is what the authors' script runs: one GPU, 8 micro-batches of 2. ``fast`` trains the same way with
the least work: one rollout and one auxiliary forward pass serve both updates, and activations are kept.
"""

from collections.abc import Mapping

from dimo_core.teacher import Recipe

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

RECIPES: Mapping[str, Recipe] = {"fast": _FAST, "paper": _PAPER}
"""The named presets."""
