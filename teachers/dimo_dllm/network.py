"""``DllmNetwork``: LLaDA and Dream from the blocks of transformers' Llama and Qwen2, never causal.

Parameters have the names that they have in ``LlamaForCausalLM`` and ``Qwen2ForCausalLM``. The blocks are
called one by one, and their attention is a function registered here: no version of transformers can put its
causal mask in between, whatever it makes of configurations and masks.
"""

from collections.abc import Mapping
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dimo_core.backbone import Backbone, Rows, at_rows
from dimo_core.device import transfer
from dimo_core.errors import MissingLibraryError
from dimo_core.tokens import Tokens, TokenSpace
from dimo_dllm.architecture import Architecture
from dimo_dllm.libraries import library

_llama = library("transformers.models.llama.modeling_llama")
_qwen2 = library("transformers.models.qwen2.modeling_qwen2")
_sdpa = library("transformers.integrations.sdpa_attention")

ATTENTION = "dimo_bidirectional"
"""The name under which transformers knows the attention function."""

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear modules of a block."""


def bidirectional(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """transformers' own ``sdpa``, never causal; what was rotated in fp32 is rounded once."""
    kwargs["is_causal"] = False
    q, k = query.to(value.dtype), key.to(value.dtype)
    attended: tuple[Tensor, None] = _sdpa.sdpa_attention_forward(
        module, q, k, value, attention_mask, **kwargs
    )
    return attended


library("transformers.modeling_utils").AttentionInterface.register(ATTENTION, bidirectional)


class Norm(_llama.LlamaRMSNorm):  # type: ignore[misc]
    """The RMS norm in fp32 as published, but in fp64 where its input is."""

    def forward(self, h: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """The gains times h / rms(h), which is rounded before."""
        wide = h.to(torch.promote_types(h.dtype, torch.float32))
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.variance_epsilon)
        out: Tensor = self.weight * normed.to(h.dtype)
        return out


class _Inner(nn.Module):
    """What transformers keeps under ``model``."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(a.columns, a.width, padding_idx=a.pad_id)
        self.layers = nn.ModuleList(_blocks(a))
        self.norm = Norm(a.width, eps=a.eps)


class DllmNetwork(Backbone):
    """The network of LLaDA and of Dream.

    Args:
        a: Its sizes.
        space: The teacher's tokens, of which some are forbidden; None scores all ids.
        gradient_checkpointing: Compute the blocks again in the backward pass instead of keeping their
            activations. No value changes.
    """

    gathers = True

    def __init__(
        self, a: Architecture, space: TokenSpace | None = None, *, gradient_checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.architecture, self.space, self.gradient_checkpointing = a, space, gradient_checkpointing
        self.angles = _angles(a.theta, a.head_width)
        self.model = _Inner(a)
        self.lm_head = None if a.tied else nn.Linear(a.width, a.columns, bias=False)

    def embed(self, x: Tokens | Float[Tensor, "B L V"]) -> Float[Tensor, "B L D"]:
        """Rows of the embedding, or their mean under probabilities."""
        table = self.model.embed_tokens
        if x.is_floating_point():
            rows = table.weight[: x.shape[-1]]
            mixed: Tensor = x.to(rows.dtype) @ rows
            return mixed
        embedded: Tensor = table(x)
        return embedded

    def forward(
        self,
        x: Tokens | Float[Tensor, "B L D"],
        c: Mapping[str, Tensor],
        *,
        mask_ratio: Float[Tensor, " B"],
    ) -> Float[Tensor, "B L D"]:
        """Hidden states whose site l predicts token l: Dream's come from the site before.

        Args:
            x: Token ids, or perturbed embeddings.
            c: ``tokens`` [B, L] with what is given at sites that are not ``valid`` [B, L]; sites that do not
                ``attend`` [B, L] are padding, which no site sees.
            mask_ratio: Not told to the network.
        """
        own, valid = x, c["valid"]
        if x.is_floating_point():
            own = torch.where(valid[..., None], x, self.embed(c["tokens"]).to(x.dtype))
        else:
            own = self.embed(torch.where(valid, x, c["tokens"]))
        attend = c["attend"]
        return self.aligned(self.states(own, attend, self.positions(attend)))

    def aligned(self, states: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """Hidden states by the site that they predict; Dream's first site, which it never predicts, twice."""
        if self.architecture.family == "llada":
            return states
        return torch.cat([states[:, :1], states[:, :-1]], 1)

    def positions(self, attend: Bool[Tensor, "B L"]) -> Int[Tensor, "#B L"]:
        """Rotary positions: Dream's count what is no padding, which has 1, and LLaDA's everything."""
        if self.architecture.family == "llada":
            return torch.arange(attend.shape[1], device=attend.device)[None]
        return (attend.long().cumsum(1) - 1).masked_fill(~attend, 1)

    def states(
        self,
        e: Float[Tensor, "B L D"],
        attend: Bool[Tensor, "B L"] | None,
        positions: Int[Tensor, "#B L"],
    ) -> Float[Tensor, "B L D"]:
        """Hidden states after the last norm, where they were computed.

        Args:
            e: Embeddings.
            attend: Sites that are seen, by all sites; None for all.
            positions: Rotary positions.
        """
        e = e.to(self.model.embed_tokens.weight.dtype)  # noise on embeddings is drawn in fp32
        mask = None if attend is None else attend[:, None, None, :]
        rotary = self._rotary(positions, e.dtype)
        again = self.gradient_checkpointing and torch.is_grad_enabled()
        for block in self.model.layers:
            if again:  # random is nothing in a block but the dropout of adapters, in training mode
                e = checkpoint(
                    _called,
                    *(block, e, mask, positions, rotary),
                    use_reentrant=False,
                    preserve_rng_state=self.training,
                )
            else:
                e = _called(block, e, mask, positions, rotary)
        normed: Tensor = self.model.norm(e)
        return normed

    def head(self, hidden: Float[Tensor, "... D"], rows: Rows | None = None) -> Float[Tensor, "... V"]:
        """A linear map, and -inf for what is forbidden."""
        owner = self.model.embed_tokens if self.lm_head is None else self.lm_head
        z = F.linear(at_rows(hidden, rows), owner.weight)
        return z if self.space is None else self.space.restrict(z, rows)

    def adapter_targets(self) -> tuple[str, ...]:
        """The seven linear maps of a block."""
        return TARGETS

    def _rotary(self, positions: Int[Tensor, "#B L"], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines ``[B, L, d]`` of angles in fp32; LLaDA rotates in fp32 too."""
        angles = transfer(torch.tensor(self.angles, device="cpu"), positions.device)
        half = positions[..., None].float() * angles
        whole = torch.cat([half, half], -1)
        kept = torch.float32 if self.architecture.family == "llada" else dtype
        return whole.cos().to(kept), whole.sin().to(kept)


def _angles(theta: float, width: int) -> tuple[float, ...]:
    """Angles between neighbouring positions, ``theta^(-2j / d)`` in fp32; a buffer would follow casts."""
    exponents = torch.arange(0, width, 2, dtype=torch.float32, device="cpu") / width
    found: list[float] = (1.0 / (theta**exponents)).tolist()
    return tuple(found)


def _called(
    block: nn.Module, e: Tensor, mask: Tensor | None, positions: Tensor, rotary: tuple[Tensor, Tensor]
) -> Tensor:
    out = block(e, attention_mask=mask, position_ids=positions, position_embeddings=rotary)
    hidden: Tensor = out[0] if isinstance(out, tuple) else out  # a tuple in older versions of transformers
    return hidden


def _blocks(a: Architecture) -> list[nn.Module]:
    """Blocks of transformers, their norms replaced."""
    sizes: dict[str, Any] = {
        "vocab_size": a.columns,
        "hidden_size": a.width,
        "intermediate_size": a.mlp,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads,
        "hidden_act": a.activation,
        "rms_norm_eps": a.eps,
        "attention_dropout": 0.0,
        "attn_implementation": ATTENTION,
    }
    if a.family == "llada":
        config = _llama.LlamaConfig(**sizes, attention_bias=a.qkv_bias, mlp_bias=False)
        made = [_llama.LlamaDecoderLayer(config, i) for i in range(a.layers)]
    else:
        config = _qwen2.Qwen2Config(**sizes, use_sliding_window=False)
        made = [_qwen2.Qwen2DecoderLayer(config, i) for i in range(a.layers)]
    for block in made:
        block.self_attn.o_proj.bias = None  # Llama's would have one beside those of queries, keys and values
        block.input_layernorm = Norm(a.width, eps=a.eps)
        block.post_attention_layernorm = Norm(a.width, eps=a.eps)
    return made


@torch.no_grad()
def require_bidirectional(a: Architecture) -> None:
    """See that another last token changes what the first site sees, on a network of this family's kind.

    Raises:
        MissingLibraryError: when it does not: the installed transformers computes another network.
    """
    few = attrs.evolve(
        a, columns=4, width=8, heads=2, kv_heads=1, layers=1, mlp=8, pad_id=None, mask_id=3, eos_id=2
    )
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = DllmNetwork(few).float()
        x = torch.tensor([[0, 1, 2], [0, 1, 3]])
        seen = torch.ones_like(x, dtype=torch.bool)
        first = network.states(network.embed(x), seen, network.positions(seen))[:, 0]
    if torch.equal(first[0], first[1]):
        version = library("transformers").__version__
        raise MissingLibraryError(
            f"transformers {version} masks what comes later, also where it is told not to, so that the "
            f"teacher {a.family!r} would be another network. Install another version of it: "
            'pip install --upgrade "dimo[dllm]"'
        )
