"""A text teacher of eight billion parameters by its sizes alone, to plan memory with.

The network is that of LLaDA-8B: transformers' Llama without the causal mask. There are no weights, no words
and no null condition; it serves on the meta device.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import LlamaConfig, LlamaForCausalLM

from dimo_core.backbone import Backbone, Rows, at_rows
from dimo_core.conditions import Conditioning
from dimo_core.suggestions import Recipe
from dimo_core.teacher import Teacher
from dimo_core.tokens import TokenSpace

LLADA: Mapping[str, Any] = {
    "vocab_size": 126464,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-5,
}
"""8,015,581,184 parameters in 291 tensors."""

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LlamaNetwork(Backbone):
    """Llama whose tokens all see one another.

    Args:
        sizes: As in the configuration of transformers' Llama.
        again: Whether blocks are computed again in the backward pass.
    """

    gathers = True

    def __init__(self, sizes: Mapping[str, Any], again: bool) -> None:
        super().__init__()
        config = LlamaConfig(**sizes, attn_implementation="sdpa", tie_word_embeddings=False)
        self.llama, self.again = LlamaForCausalLM(config), again
        for block in self.llama.model.layers:
            block.self_attn.is_causal = False

    def embed(self, x: Tensor) -> Tensor:
        """Rows of the embedding."""
        embedded: Tensor = self.llama.model.embed_tokens(x)
        return embedded

    def forward(self, x: Tensor, c: Tensor, *, mask_ratio: Tensor) -> Tensor:
        """Hidden states of all tokens; neither conditions nor a time are used."""
        h = x if x.is_floating_point() else self.embed(x)
        model = self.llama.model
        rotary = model.rotary_emb(h, torch.arange(h.shape[1], device=h.device)[None])
        for block in model.layers:
            if self.again and torch.is_grad_enabled():
                h = checkpoint(
                    lambda h, block=block: block(h, position_embeddings=rotary), h, use_reentrant=False
                )
            else:
                h = block(h, position_embeddings=rotary)
        hidden: Tensor = model.norm(h)
        return hidden

    def head(self, hidden: Tensor, rows: Rows | None = None) -> Tensor:
        """Logits of every id of the vocabulary."""
        return F.linear(at_rows(hidden, rows), self.llama.lm_head.weight)

    def adapter_targets(self) -> tuple[str, ...]:
        """Every linear map of the blocks."""
        return TARGETS


@attrs.frozen(kw_only=True)
class Llama(Teacher):
    """A masked diffusion model of text.

    Attributes:
        sizes: Of the network.
        length: Tokens L, prompt and answer.
        again: Whether activations are computed again.
    """

    sizes: Mapping[str, Any] = LLADA
    length: int = 1024
    again: bool = False

    conditioning = Conditioning(kind="label", classes=("none",))

    @property
    def tokens(self) -> TokenSpace:
        """All ids are columns of the head; the mask is thought of as one more."""
        codes = self.sizes["vocab_size"]
        return TokenSpace(length=self.length, codes=codes, mask_id=codes, modality="text")

    def skeleton(self) -> LlamaNetwork:
        """The network."""
        return LlamaNetwork(self.sizes, self.again)

    def network(self, *, share: bool = False) -> LlamaNetwork:
        """There are no weights."""
        raise NotImplementedError

    def encode_conditions(self, raw: Sequence[Any]) -> Tensor:
        """Nothing is known of a sample."""
        return torch.zeros(len(raw), dtype=torch.long)

    def frozen_parameters(self) -> tuple[str, ...]:
        """Embedding and head."""
        return ("llama.model.embed_tokens.weight", "llama.lm_head.weight")

    def recipes(self) -> Mapping[str, Recipe]:
        """One sample a micro-batch, without guidance, in bf16."""
        half = {"precision": "bf16"}
        return {
            "text": {
                "train": {**half, "batch_size": 16, "accumulate": 16},
                "objective": {"generator": {"ema": 0.9999}},
                "guidance": {"name": "constant", "scale": 1.0},
            }
        }

    def evaluation(self) -> None:
        """None."""
