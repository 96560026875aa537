"""The mask transformer of MaskGIT-pytorch v1.0, with its parameter names and shapes.

One joint vocabulary: codes 0 .. K-1, mask K, class y at K + 1 + y, and last the null class. The sequence is
the L visual tokens and, after them, the class token. Input and output embeddings are tied; the output
bias is one row per position.
"""

import attrs
import torch
import torch.nn.functional as F
from attrs import validators as v
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dimo_core.backbone import Backbone, Rows, at_rows
from dimo_core.limits import check_network
from dimo_core.tokens import Tokens


@attrs.frozen(kw_only=True)
class Architecture:
    """Sizes of the transformer.

    None has a default: no tensor's shape depends on ``heads``, so a wrong number would load and give garbage.

    Attributes:
        width: Hidden width D.
        depth: Number of blocks.
        heads: Attention heads.
        mlp: Inner width of the feed-forward layers.
        dropout: Dropout probability in training mode.
        grid: Tokens per side.
        codes: Codebook size K.
        classes: Number of classes C.
    """

    width: int = attrs.field(validator=v.gt(0))
    depth: int = attrs.field(validator=v.gt(0))
    heads: int = attrs.field(validator=v.gt(0))
    mlp: int = attrs.field(validator=v.gt(0))
    dropout: float = attrs.field(validator=[v.ge(0), v.lt(1)])
    grid: int = attrs.field(validator=v.gt(0))
    codes: int = attrs.field(validator=v.gt(1))
    classes: int = attrs.field(validator=v.gt(0))

    def __attrs_post_init__(self) -> None:
        """Check that heads divide the width, and that there are machines for such sizes.

        Raises:
            ValueError: if not.
        """
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}")
        block, ids = 4 * self.width**2 + 2 * self.width * self.mlp, self.codes + self.classes + self.grid**2
        check_network(self.depth, self.depth * block + ids * self.width + self.grid**2 * self.codes)


PUBLISHED = Architecture(
    width=768, depth=24, heads=16, mlp=3072, dropout=0.1, grid=16, codes=1024, classes=1000
)
"""The ImageNet-256 network of MaskGIT-pytorch v1.0: 174,160,874 parameters in 305 tensors."""


class Attention(nn.Module):
    """Multi-head self-attention with the parameter names of ``nn.MultiheadAttention``."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        """Every position attends to all."""
        b, s, d = x.shape
        qkv = self.in_proj(x) if "in_proj" in self._modules else self._packed(x)
        q, k, v = qkv.view(b, s, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        p = self.dropout if self.training else 0.0
        out: Tensor = F.scaled_dot_product_attention(q, k, v, dropout_p=p)
        projected: Tensor = self.out_proj(out.transpose(1, 2).reshape(b, s, d))
        return projected

    def _packed(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S E"]:
        return F.linear(x, self.in_proj_weight, self.in_proj_bias)

    def give_to_module(self) -> None:
        """Let a linear module ``in_proj`` hold the packed projection, so that adapters can wrap it."""
        rows, columns = self.in_proj_weight.shape
        self.in_proj = nn.Linear(columns, rows, device="meta")
        self.in_proj.weight, self.in_proj.bias = self.in_proj_weight, self.in_proj_bias
        del self.in_proj_weight, self.in_proj_bias


class PreNorm(nn.Module):
    """x + fn(norm(x)), under the reference's names ``norm`` and ``fn``."""

    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(width), fn

    def forward(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        """The residual branch added."""
        out: Tensor = x + self.fn(self.norm(x))
        return out


class AttentionBranch(nn.Module):
    """Holds the attention under the reference's name ``mha``."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.mha = Attention(a.width, a.heads, a.dropout)

    def forward(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        """Self-attention."""
        out: Tensor = self.mha(x)
        return out


class FeedForward(nn.Module):
    """Linear, GELU, dropout, Linear, dropout, under the reference's name ``net``."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(a.width, a.mlp),
            nn.GELU(),
            nn.Dropout(a.dropout),
            nn.Linear(a.mlp, a.width),
            nn.Dropout(a.dropout),
        )

    def forward(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        """Position by position."""
        out: Tensor = self.net(x)
        return out


class Blocks(nn.Module):
    """The stack of pre-norm blocks, under the reference's name ``layers``.

    Attributes:
        gradient_checkpointing: Compute each block again in the backward pass instead of keeping its
            activations. No value changes.
    """

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.layers = nn.ModuleList(
            nn.ModuleList([PreNorm(a.width, AttentionBranch(a)), PreNorm(a.width, FeedForward(a))])
            for _ in range(a.depth)
        )

    def forward(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        """All blocks in order."""
        again = self.gradient_checkpointing and torch.is_grad_enabled()
        for block in self.layers:
            if again:  # random is nothing in a block but dropout, in training mode
                both = nn.Sequential(*block.children())
                x = checkpoint(both, x, use_reentrant=False, preserve_rng_state=self.training)
                continue
            for branch in block.children():
                x = branch(x)
        return x


class MaskTransformer(Backbone):
    """The network of the MaskGIT teacher.

    Args:
        architecture: Sizes.
        columns: Logit columns: K, or K + 1 to score the mask token too.
    """

    gathers = True
    takes_extra = True

    def __init__(self, architecture: Architecture, columns: int) -> None:
        super().__init__()
        a = self.architecture = architecture
        self.columns, self.length = columns, a.grid**2
        vocabulary = a.codes + 1 + a.classes + 1
        self.tok_emb = nn.Embedding(vocabulary, a.width)
        self.pos_emb = nn.Parameter(torch.zeros(1, self.length + 1, a.width))
        self.bias = nn.Parameter(torch.zeros(self.length + 1, vocabulary))
        self.first_layer = nn.Sequential(
            nn.LayerNorm(a.width, eps=1e-12),
            nn.Dropout(a.dropout),
            nn.Linear(a.width, a.width),
            nn.GELU(),
            nn.LayerNorm(a.width, eps=1e-12),
            nn.Dropout(a.dropout),
            nn.Linear(a.width, a.width),
        )
        self.transformer = Blocks(a)
        self.last_layer = nn.Sequential(
            nn.LayerNorm(a.width, eps=1e-12),
            nn.Dropout(a.dropout),
            nn.Linear(a.width, a.width),
            nn.GELU(),
            nn.LayerNorm(a.width, eps=1e-12),
        )
        nn.init.trunc_normal_(self.pos_emb, std=0.02)

    def embed(self, x: Tokens | Float[Tensor, "B L V"]) -> Float[Tensor, "B L E"]:
        """Rows of the token embedding, or their mean under probabilities over the codes."""
        if x.is_floating_point():
            return x @ self.tok_emb.weight[: x.shape[-1]].to(x.dtype)
        return F.embedding(x, self.tok_emb.weight)

    def forward(
        self,
        x: Tokens | Float[Tensor, "B L E"],
        c: Int[Tensor, " B"],
        *,
        mask_ratio: Float[Tensor, " B"],
        extra: Float[Tensor, "B N E"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """Hidden states of the visual tokens; the network has no time input, so ``mask_ratio`` is ignored.

        Args:
            x: Token ids, or perturbed embeddings.
            c: Class indices; C is the null class.
            mask_ratio: Not used.
            extra: Further embedded tokens; they come last, and have no position.
        """
        e = x if x.is_floating_point() else self.embed(x)
        label = self.embed(c[:, None] + self.architecture.codes + 1)
        h = torch.cat([e, label.to(e.dtype)], 1) + self.pos_emb
        h = h if extra is None else torch.cat([h, extra.to(h.dtype)], 1)
        hidden: Tensor = self.last_layer(self.transformer(self.first_layer(h)))
        return hidden[:, : self.length]

    def head(self, hidden: Float[Tensor, "... D"], rows: Rows | None = None) -> Float[Tensor, "... V"]:
        """Tied output embedding and per-position bias, for the code columns only."""
        weight = self.tok_emb.weight[: self.columns]
        bias = self.bias[: self.length, : self.columns]
        return F.linear(at_rows(hidden, rows), weight) + (bias if rows is None else bias[rows % self.length])

    def adapter_targets(self) -> tuple[str, ...]:
        """Every linear map but the tied head."""
        for module in self.modules():
            if isinstance(module, Attention):
                module.give_to_module()
        blocks = ("mha.in_proj", "mha.out_proj", "fn.net.0", "fn.net.3")
        return (*blocks, "first_layer.2", "first_layer.6", "last_layer.2")
