"""The diffusion transformer of MDLM, with its parameter names and shapes (arXiv 2406.07524).

Every block is modulated by one vector c, which is made of the noise level sigma. Published networks are not
told the noise level: for them sigma is 0, and c a constant that is not zero.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dimo_core.backbone import Backbone, Rows, at_rows
from dimo_core.tokens import Tokens
from dimo_mdlm.architecture import Architecture

WAVES = 128
"""Frequencies of the sinusoid of sigma."""

VISIBLE = 1e-3
"""alpha(1): share of tokens that are visible when t = 1, which bounds sigma."""

LABEL_STD = 0.2
"""Standard deviation of initial class embeddings: about what ``sigma_map`` gives at first."""


def noise_level(mask_ratio: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """sigma = -log(1 - r), r being the probability of a mask: 1 - 1e-3 at most, as in MDLM's schedule."""
    return -torch.log1p(-mask_ratio.clamp_max(1 - VISIBLE))


def sinusoid(sigma: Float[Tensor, " B"]) -> Float[Tensor, "B 256"]:
    """cos(sigma f), then sin(sigma f), with f_i = 10000^(-i / 128)."""
    waves = torch.arange(WAVES, dtype=sigma.dtype, device=sigma.device)
    angle = sigma[:, None] * (waves * (-math.log(10000) / WAVES)).exp()
    return torch.cat([angle.cos(), angle.sin()], 1)


def inverse_frequencies(head: int, device: torch.device | None = None) -> Float[Tensor, " half"]:
    """10000^(-2 j / d) for j < d / 2, in fp32 as published files hold them; d is the width of a head."""
    return 1 / 10000 ** (torch.arange(0, head, 2, dtype=torch.float32, device=device) / head)


def rotary_tables(
    length: int, head: int, like: Tensor
) -> tuple[Float[Tensor, "L half"], Float[Tensor, "L half"]]:
    """cos and sin of p 10000^(-2 j / d) at the positions p = 0 .. L-1, in fp32 at least."""
    wide = torch.promote_types(like.dtype, torch.float32)
    position = torch.arange(length, dtype=wide, device=like.device)
    angle = position[:, None] * inverse_frequencies(head, like.device)
    return angle.cos(), angle.sin()


def rotated(
    z: Float[Tensor, "B h S d"], cos: Float[Tensor, "S half"], sin: Float[Tensor, "S half"]
) -> Float[Tensor, "B h S d"]:
    """(z_1 cos - z_2 sin, z_2 cos + z_1 sin), z_1 and z_2 being the halves of each head."""
    cos, sin = cos.to(z.dtype), sin.to(z.dtype)
    first, second = z.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class LayerNorm(nn.Module):
    """Layer normalisation with a weight and no bias, eps 1e-5."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        """Over the last axis."""
        return F.layer_norm(x, self.weight.shape, self.weight, eps=1e-5)


def modulated(
    x: Float[Tensor, "B S D"], shift: Float[Tensor, "B 1 D"], scale: Float[Tensor, "B 1 D"]
) -> Float[Tensor, "B S D"]:
    """x (1 + scale) + shift."""
    return x * (1 + scale) + shift


def _zeroed(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Embedding(nn.Module):
    """A row for each id, under the reference's name ``embedding``."""

    def __init__(self, ids: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(ids, width))
        nn.init.kaiming_uniform_(self.embedding, a=math.sqrt(5))


class SigmaMap(nn.Module):
    """Two layers on the sinusoid of sigma, under the reference's name ``mlp``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * WAVES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, sigma: Float[Tensor, " B"]) -> Float[Tensor, "B C"]:
        """[B] to [B, C]."""
        first = self.mlp[0]
        assert isinstance(first, nn.Linear)
        out: Tensor = self.mlp(sinusoid(sigma).to(first.weight.dtype))
        return out


class Block(nn.Module):
    """Attention and a feed-forward layer, each modulated and gated by c."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.heads = a.heads
        self.norm1 = LayerNorm(a.width)
        self.attn_qkv = nn.Linear(a.width, 3 * a.width, bias=False)
        self.attn_out = nn.Linear(a.width, a.width, bias=False)
        self.norm2 = LayerNorm(a.width)
        self.mlp = nn.Sequential(
            nn.Linear(a.width, 4 * a.width), nn.GELU(approximate="tanh"), nn.Linear(4 * a.width, a.width)
        )
        self.dropout = nn.Dropout(a.dropout)
        self.adaLN_modulation = _zeroed(nn.Linear(a.conditioning, 6 * a.width))

    def forward(
        self,
        h: Float[Tensor, "B S D"],
        c: Float[Tensor, "B C"],
        cos: Float[Tensor, "S half"],
        sin: Float[Tensor, "S half"],
    ) -> Float[Tensor, "B S D"]:
        """h + gate dropout(branch(LN(h) (1 + scale) + shift)), twice."""
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = self.adaLN_modulation(c)[:, None].chunk(6, -1)
        u = modulated(self.norm1(h), shift_a, scale_a)
        h = h + gate_a * self.dropout(self.attention(u, cos, sin))
        u = modulated(self.norm2(h), shift_f, scale_f)
        out: Tensor = h + gate_f * self.dropout(self.mlp(u))
        return out

    def attention(
        self, u: Float[Tensor, "B S D"], cos: Float[Tensor, "S half"], sin: Float[Tensor, "S half"]
    ) -> Float[Tensor, "B S D"]:
        """Every position attends to all."""
        b, s, width = u.shape
        q, k, v = self.attn_qkv(u).view(b, s, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        o = F.scaled_dot_product_attention(rotated(q, cos, sin), rotated(k, cos, sin), v)
        out: Tensor = self.attn_out(o.transpose(1, 2).reshape(b, s, width))
        return out


class OutputLayer(nn.Module):
    """The last normalisation, its modulation, and the head, which is not tied to the embedding."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.norm_final = LayerNorm(a.width)
        self.linear = _zeroed(nn.Linear(a.width, a.codes + 1))
        self.adaLN_modulation = _zeroed(nn.Linear(a.conditioning, 2 * a.width))

    def forward(self, h: Float[Tensor, "B S D"], c: Float[Tensor, "B C"]) -> Float[Tensor, "B S D"]:
        """What the head takes."""
        shift, scale = self.adaLN_modulation(c)[:, None].chunk(2, -1)
        return modulated(self.norm_final(h), shift, scale)


class MdlmNetwork(Backbone):
    """The network of an MDLM teacher.

    Args:
        architecture: Sizes.

    Attributes:
        gradient_checkpointing: Compute each block again in the backward pass instead of keeping its
            activations. No value changes.
    """

    gathers = True
    takes_extra = True

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = self.architecture = architecture
        self.gradient_checkpointing = False
        self.vocab_embed = Embedding(a.codes + 1, a.width)
        self.sigma_map = SigmaMap(a.conditioning)
        if a.classes:
            self.label_embed = nn.Embedding(a.classes + 1, a.conditioning)
            nn.init.normal_(self.label_embed.weight, std=LABEL_STD)
        self.blocks = nn.ModuleList(Block(a) for _ in range(a.depth))
        self.output_layer = OutputLayer(a)

    def embed(self, x: Tokens | Float[Tensor, "B L V"]) -> Float[Tensor, "B L E"]:
        """Rows of the embedding, or their mean under probabilities over the codes."""
        table = self.vocab_embed.embedding
        if x.is_floating_point():
            return x @ table[: x.shape[-1]].to(x.dtype)
        return F.embedding(x, table)

    def modulation(self, c: Int[Tensor, " B"], mask_ratio: Float[Tensor, " B"]) -> Float[Tensor, "B C"]:
        """The vector c = SiLU(sigma_map(sigma) + the class's embedding) that modulates every block.

        Args:
            c: Class indices, the number of classes being the null class; not used without classes.
            mask_ratio: Share of masked tokens; without time conditioning sigma is 0.
        """
        sigma = noise_level(mask_ratio) if self.architecture.time_conditioning else 0 * mask_ratio
        vector = self.sigma_map(sigma)
        return F.silu(vector + self.label_embed(c) if self.architecture.classes else vector)

    def forward(
        self,
        x: Tokens | Float[Tensor, "B L E"],
        c: Int[Tensor, " B"],
        *,
        mask_ratio: Float[Tensor, " B"],
        extra: Float[Tensor, "B N E"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """Hidden states, normalised and modulated for the head.

        Args:
            x: Token ids, or embeddings.
            c: Class indices, as in ``modulation``.
            mask_ratio: Share of masked tokens.
            extra: Further embedded tokens; they come last, and are not rotated.
        """
        h = x if x.is_floating_point() else self.embed(x)
        length, vector = h.shape[1], self.modulation(c, mask_ratio)
        cos, sin = rotary_tables(length, self.architecture.width // self.architecture.heads, h)
        if extra is not None:
            h, more = torch.cat([h, extra.to(h.dtype)], 1), extra.shape[1]
            cos, sin = F.pad(cos, (0, 0, 0, more), value=1.0), F.pad(sin, (0, 0, 0, more))
        again = self.gradient_checkpointing and torch.is_grad_enabled()
        for block in self.blocks:
            if again:  # random is nothing in a block but dropout, in training mode
                h = checkpoint(
                    block, h, vector, cos, sin, use_reentrant=False, preserve_rng_state=self.training
                )
            else:
                h = block(h, vector, cos, sin)
        hidden: Tensor = self.output_layer(h, vector)
        return hidden[:, :length]

    def head(self, hidden: Float[Tensor, "... D"], rows: Rows | None = None) -> Float[Tensor, "... V"]:
        """Logits of the V codes; that of the mask, which is never predicted (SUBS), is not computed."""
        linear, codes = self.output_layer.linear, self.architecture.codes
        return F.linear(at_rows(hidden, rows), linear.weight[:codes], linear.bias[:codes])

    def adapter_targets(self) -> tuple[str, ...]:
        """The four linear maps of every block."""
        maps = ("attn_qkv", "attn_out", "mlp.0", "mlp.2")  # sigma_map has an mlp.0, too
        return tuple(f"blocks.{i}.{name}" for i in range(self.architecture.depth) for name in maps)
