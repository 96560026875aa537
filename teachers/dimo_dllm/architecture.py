"""``Architecture``: sizes and ways of a network, as the two families write them into ``config.json``.

LLaDA is transformers' Llama and Dream its Qwen2, each without the causal mask. What would be another function
is refused here; what only tells how the authors trained is not looked at.
"""

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from dimo_core.errors import CheckpointError

Family = Literal["llada", "dream"]

MUST: Mapping[Family, Mapping[str, tuple[Any, ...]]] = {
    "llada": {
        "block_type": ("llama",),
        "activation_type": ("silu", "gelu", "relu"),
        "layer_norm_type": ("rms",),
        "layer_norm_with_affine": (True,),
        "rope": (True,),
        "rope_full_precision": (True,),
        "include_bias": (False,),
        "bias_for_layer_norm": (False, None),
        "attention_layer_norm": (False, None),
        "input_emb_norm": (False, None),
        "scale_logits": (False, None),
        "alibi": (False, None),
    },
    "dream": {
        "hidden_act": ("silu", "gelu", "relu"),
        "rope_scaling": (None,),
        "use_sliding_window": (False, None),
        "use_mrope": (False, None),
    },
}
"""Entries that change the function, and what they may be; None where one may be missing."""

KNOWN: Mapping[Family, str] = {"llada": "d_model", "dream": "num_hidden_layers"}
"""An entry that every configuration of the family has."""


@attrs.frozen(kw_only=True)
class Architecture:
    """Sizes of the network.

    Attributes:
        family: Whose names, shift and rounding it has.
        columns: Rows of the embedding and columns of the logits V, ids without a token and the mask included.
        width: Of the hidden states D.
        layers: Number of blocks.
        heads: Query heads; each has D / heads numbers.
        kv_heads: Key and value heads, each of which serves heads / kv_heads neighbours.
        mlp: Width of the MLP.
        eps: Epsilon of the RMS norms.
        theta: Base of the rotary angles.
        activation: Of the MLP's gate.
        qkv_bias: Whether queries, keys and values have biases.
        tied: Whether the head is the embedding.
        group: Blocks in a group, where the file numbers them by group and block; 1 for none (LLaDA).
        mask_id: The id that stands for "masked".
        eos_id: The id that ends a text, and fills it up.
        pad_id: Row of the embedding that never learns: that of padding (Dream); None for none (LLaDA).
    """

    family: Family
    columns: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    eps: float
    theta: float
    activation: str = "silu"
    qkv_bias: bool = False
    tied: bool = False
    group: int = 1
    mask_id: int
    eos_id: int
    pad_id: int | None = None

    @classmethod
    def from_config(cls, family: Family, config: Mapping[str, Any], source: str) -> "Architecture":
        """From the published ``config.json``.

        Args:
            family: Which teacher reads it.
            config: Its content.
            source: Where it was read, for messages.

        Raises:
            CheckpointError: when an entry is missing or impossible, or asks for another function.
        """
        other: Family = "dream" if family == "llada" else "llada"
        if KNOWN[family] not in config and KNOWN[other] in config:
            raise CheckpointError(f"{source} describes no {family!r}, but a {other!r}: use --teacher {other}")
        for name, allowed in MUST[family].items():
            if (given := config.get(name)) not in allowed:
                able = " or ".join(repr(value) for value in allowed)
                raise CheckpointError(
                    f"{source}: {name} is {given!r}, which makes another network than teacher {family!r} "
                    f"knows; it must be {able}"
                )
        read = _Reader(config, source)
        made = _llada(read) if family == "llada" else _dream(read)
        made._check(source)
        return made

    def _check(self, source: str) -> None:
        if self.width % self.heads or (self.width // self.heads) % 2 or self.heads % self.kv_heads:
            raise CheckpointError(
                f"{source}: {self.heads} heads, {self.kv_heads} of keys and values, do not divide a width of "
                f"{self.width} into even parts"
            )
        for name, found in (("mask_token_id", self.mask_id), ("eos_token_id", self.eos_id)):
            if found >= self.columns:
                raise CheckpointError(f"{source}: {name} {found} is none of {self.columns} ids")

    @property
    def head_width(self) -> int:
        """Numbers of a head d."""
        return self.width // self.heads

    def published_name(self, name: str) -> str:
        """What the published files call a parameter of transformers' modules."""
        if self.family == "dream":
            return name
        if name in OUTSIDE:
            return f"model.transformer.{OUTSIDE[name]}"
        _, _, block, rest = name.split(".", 3)
        owner, _, leaf = rest.rpartition(".")
        place = f"blocks.{block}"
        if self.group > 1:
            place = f"block_groups.{int(block) // self.group}.{int(block) % self.group}"
        return f"model.transformer.{place}.{WITHIN[owner]}.{leaf}"


OUTSIDE: Mapping[str, str] = {
    "model.embed_tokens.weight": "wte.weight",
    "model.norm.weight": "ln_f.weight",
    "lm_head.weight": "ff_out.weight",
}
"""LLaDA's names outside the blocks, by Llama's."""

WITHIN: Mapping[str, str] = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ff_norm",
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
}
"""LLaDA's names within a block, by Llama's; its head and its down projections share a name."""


@attrs.frozen
class _Reader:
    """Entries of a configuration, or one clear line."""

    config: Mapping[str, Any]
    source: str

    def count(self, *names: str, least: int = 1) -> int:
        """The first of these entries that is there and not null: a whole number."""
        name, value = self._first(names)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise CheckpointError(f"{self.source}: {name} is {value!r}, not a whole number from {least} up")
        return value

    def number(self, name: str) -> float:
        """A positive number."""
        _, value = self._first((name,))
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise CheckpointError(f"{self.source}: {name} is {value!r}, not a number above 0")
        return float(value)

    def flag(self, name: str) -> bool:
        """True or false; null and missing are false."""
        value = self.config.get(name) or False
        if not isinstance(value, bool):
            raise CheckpointError(f"{self.source}: {name} is {value!r}, neither true nor false")
        return value

    def _first(self, names: tuple[str, ...]) -> tuple[str, Any]:
        for name in names:
            if (value := self.config.get(name)) is not None:
                return name, value
        raise CheckpointError(f"{self.source} has no entry {' or '.join(names)}; take the published file")


def _llada(read: _Reader) -> Architecture:
    width, heads = read.count("d_model"), read.count("n_heads")
    wide = read.config.get("mlp_hidden_size") is not None
    shared = read.flag("multi_query_attention")
    return Architecture(
        family="llada",
        columns=read.count("embedding_size", "vocab_size"),
        width=width,
        layers=read.count("n_layers"),
        heads=heads,
        kv_heads=1 if shared else read.count("n_kv_heads", "n_heads"),
        mlp=read.count("mlp_hidden_size") if wide else int(read.number("mlp_ratio") * width),
        eps=read.number("rms_norm_eps"),
        theta=read.number("rope_theta"),
        activation=read.config.get("activation_type", "silu"),
        qkv_bias=read.flag("include_qkv_bias"),
        tied=read.flag("weight_tying"),
        group=read.count("block_group_size") if "block_group_size" in read.config else 1,
        mask_id=read.count("mask_token_id", least=0),
        eos_id=read.count("eos_token_id", least=0),
    )


def _dream(read: _Reader) -> Architecture:
    heads = read.count("num_attention_heads")
    return Architecture(
        family="dream",
        columns=read.count("vocab_size"),
        width=read.count("hidden_size"),
        layers=read.count("num_hidden_layers"),
        heads=heads,
        kv_heads=read.count("num_key_value_heads", "num_attention_heads"),
        mlp=read.count("intermediate_size"),
        eps=read.number("rms_norm_eps"),
        theta=read.number("rope_theta"),
        activation=read.config.get("hidden_act", "silu"),
        qkv_bias=True,
        tied=read.flag("tie_word_embeddings"),
        mask_id=read.count("mask_token_id", least=0),
        eos_id=read.count("eos_token_id", least=0),
        pad_id=read.count("pad_token_id", least=0) if read.config.get("pad_token_id") is not None else None,
    )
