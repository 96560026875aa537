"""The text beside an adapter, and the names of the files of its folder."""

from collections.abc import Mapping
from typing import Any, Literal

CONFIG, WEIGHTS, README = "adapter_config.json", "adapter_model.safetensors", "README.md"

Names = Literal["transformers", "published"]

CARD = """\
---
library_name: peft
base_model: {base}
tags: [masked-diffusion, dimo]
---

# Adapter for {family}

Low-rank adapters (rank {rank}, alpha {alpha:g}) for {base}, trained by dimo in {steps} steps.

{loading}

A generator of dimo draws all tokens of an answer in {passes}, from an answer of masks (r_init {r_init:g}).
"""

LOADING: Mapping[Names, str] = {
    "transformers": """\
The modules are those of transformers' `{cls}`. In the base model attention is **not causal**: give it a mask
that lets every token see every other, `[B, 1, L, L]`, and `use_cache=False`. Then
`peft.PeftModel.from_pretrained(model, FOLDER)`.""",
    "published": """\
The modules are those of the published code of the base model, which has to be trusted to be run:
`peft.PeftModel.from_pretrained(model, FOLDER)`.""",
}


def card(family: str, base: str, facts: Mapping[str, Any], names: Names) -> str:
    """The text beside an adapter.

    Args:
        family: Whose network it changes.
        base: Where that was published.
        facts: The generator's card.
        names: Whose module names it has.
    """
    options, cls = facts["generator"], "Qwen2ForCausalLM" if family == "dream" else "LlamaForCausalLM"
    return CARD.format(
        base=base,
        family=family,
        rank=options["rank"],
        alpha=float(options["alpha"]),
        steps=facts.get("step", "an unknown number of"),
        loading=LOADING[names].format(cls=cls),
        passes="one forward pass",
        r_init=float(options.get("r_init", 1.0)),
    )
