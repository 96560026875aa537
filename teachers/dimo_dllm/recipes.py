"""The presets of LLaDA and Dream: adapters as generator and auxiliary on one frozen base.

None of them was run at full size. ``certainty`` is dParallel's; the others have its ranks, learning rate and
clipping, with which nobody tried them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dimo_core.suggestions import Recipe
from dimo_dllm.architecture import Family

RANK: Mapping[Family, int] = {"llada": 128, "dream": 32}
"""dParallel's."""

_OPTIMISATION = {"lr": 2e-5, "warmup": 50, "clip": 1.0, "ema": 0.0}


def recipes(family: Family) -> Mapping[str, Recipe]:
    """By name; the first one is the default."""
    adapters = {"name": "lora", "rank": RANK[family], "alpha": float(RANK[family])}
    common: Recipe = {
        "teacher": {"name": family, "gradient_checkpointing": True},
        "train": {
            "steps": 1000,
            "batch_size": 8,
            "accumulate": 8,
            "precision": "bf16",
            "frozen_dtype": "bf16",
        },
        "eval": {"precision": "bf16"},
        "generator": {**adapters, "r_init": 1.0, "sigma_init": 0.0},
        "auxiliary": {**adapters, "label_smoothing": 0.0},
        "guidance": {"name": "constant", "scale": 1.0},
        "conditions": {"name": "prompts"},
    }
    both = {"generator": _OPTIMISATION, "auxiliary": _OPTIMISATION}
    return {
        "dimo": {
            **common,
            "divergence": {"name": "jeffrey", "beta": 0.0},
            "objective": {
                "name": "dimo",
                "rollout": "shared",
                "schedule": "linear",
                "masking": "exact",
                **both,
            },
        },
        "idlm": {
            **common,
            "auxiliary": {**common["auxiliary"], "soft": 1.0},
            "divergence": {"name": "rkl"},
            "objective": {"name": "idlm", **both},
            "data": {"name": "samples"},
        },
        "certainty": {
            **{name: value for name, value in common.items() if name not in ("auxiliary", "guidance")},
            "objective": {
                "name": "certainty",
                "block": 32 if family == "llada" else None,
                "beta": 2.0 if family == "llada" else 1.0,
                "generator": {**_OPTIMISATION, "weight_decay": 0.01},
            },
            "data": {"name": "samples"},
        },
    }


def advice(config: Mapping[str, Any]) -> Sequence[str]:
    """A warning where a whole network is trained in bf16.

    Args:
        config: The resolved configuration of a run.
    """
    if config.get("teacher", {}).get("dtype", "bf16") == "fp32":
        return ()
    whole = {"generator": ("one_step", "few_step"), "auxiliary": ("denoiser",)}
    named = [kind for kind, names in whole.items() if config.get(kind, {}).get("name") in names]
    return [
        f"the {kind} is a whole network in bf16, whose small updates are rounded away: use --{kind} lora, or "
        "--teacher.dtype fp32"
        for kind in named
    ]
