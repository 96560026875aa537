"""The reader: a small causal language model, and what it makes of a text."""

import functools
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from safetensors.torch import load
from torch import Tensor, nn

from dimo_text.scripture.books import KINDS
from dimo_text.scripture.pieces import encoded, pieces

CONTEXT = 96
"""Tokens that are read at most; the rest of a text is left out."""

AT_A_TIME = 250
"""Texts that are read together."""

PADDING = -1


class Block(nn.Module):
    """Causal attention and a feed-forward layer, each after a normalisation."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        """Every position attends to itself and those before it."""
        b, s, width = h.shape
        q, k, v = self.qkv(self.norm1(h)).view(b, s, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + self.dropout(self.out(o.transpose(1, 2).reshape(b, s, width)))
        out: Tensor = h + self.dropout(self.mlp(self.norm2(h)))
        return out


class ReaderNetwork(nn.Module):
    """A causal transformer over pieces; its head is tied to the embedding, its mean state tells the kind.

    Features are brought to mean 0 and variance 1 over the reader's text by the stored ``mean`` and ``std``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, width: int = 128, depth: int = 3, heads: int = 4, dropout: float = 0.1) -> None:
        """Untrained.

        Args:
            width: Hidden width D, the number of features.
            depth: Number of blocks.
            heads: Attention heads.
            dropout: Of training.
        """
        super().__init__()
        self.embedding = nn.Embedding(len(pieces()), width)
        self.position = nn.Embedding(CONTEXT, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.position.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.kind = nn.Linear(width, len(KINDS))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def states(self, x: Int[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
        """The last hidden states; what is padding does not reach what is before it."""
        h = self.embedding(x.clamp_min(0)) + self.position.weight[: x.shape[1]]
        for block in self.blocks:
            h = block(h)
        out: Tensor = self.norm(h)
        return out

    def forward(
        self, x: Int[Tensor, "B S"]
    ) -> tuple[Float[Tensor, "B S-1"], Float[Tensor, "B D"], Float[Tensor, "B k"]]:
        """What it makes of texts.

        Args:
            x: Their tokens, ``PADDING`` after the end of shorter ones.

        Returns:
            -log p of each token but the first (0 at padding), the mean state over tokens, logits of kinds.
        """
        h, there = self.states(x), x != PADDING
        logits = F.linear(h[:, :-1], self.embedding.weight)
        nll = F.cross_entropy(logits.transpose(1, 2), x[:, 1:].long(), ignore_index=PADDING, reduction="none")
        mean = (h * there[..., None]).sum(1) / there.sum(1, keepdim=True).clamp_min(1)
        return nll, mean, self.kind(mean)


@attrs.frozen(kw_only=True, eq=False)
class Reading:
    """What the reader makes of some texts.

    Attributes:
        nll: -log p of each token but the first of each text, in nats; 0 where there is none.
        counts: Where there is one.
        features: The mean of the last hidden states of each text, normalised.
        kinds: The likeliest kind of each text.
    """

    nll: Float[Tensor, "N M"]
    counts: Bool[Tensor, "N M"]
    features: Float[Tensor, "N D"]
    kinds: Int[Tensor, " N"]

    @property
    def perplexity(self) -> float:
        """exp of the mean over all tokens that count, pooled over the texts."""
        return float((self.nll.double().sum() / self.counts.sum()).exp())


@functools.cache
def _weights() -> bytes:
    return files(__package__).joinpath("reader.safetensors").read_bytes()


def fingerprint() -> str:
    """SHA-256 of the weights and of the list of pieces."""
    return hashlib.sha256(_weights() + "\n".join(pieces()).encode()).hexdigest()


@functools.cache
def shipped_reader() -> ReaderNetwork:
    """The network with the shipped weights, in eval mode; one object for all who ask."""
    network = ReaderNetwork()
    network.load_state_dict(load(_weights()))
    return network.eval().requires_grad_(False)


def padded(texts: Sequence[str]) -> Int[Tensor, "N S"]:
    """The tokens of texts, cut at ``CONTEXT``; ``PADDING`` after the end of shorter ones."""
    rows = [encoded(text)[:CONTEXT] for text in texts]
    out = torch.full((len(rows), max(2, *map(len, rows))), PADDING)
    for row, ids in zip(out, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return out


def read(texts: Sequence[str], network: ReaderNetwork | None = None) -> Reading:
    """Let a reader read.

    Args:
        texts: One a sample.
        network: The shipped one unless given.
    """
    reader, tokens = network or shipped_reader(), padded(texts)
    parts: list[tuple[Any, ...]] = []
    with torch.no_grad():
        for batch in tokens.split(AT_A_TIME):
            nll, mean, kind = reader(batch)
            parts.append((nll, (mean - reader.mean) / reader.std, kind.argmax(1)))
    nll, features, kinds = (torch.cat(part) for part in zip(*parts, strict=True))
    return Reading(nll=nll, counts=tokens[:, 1:] != PADDING, features=features, kinds=kinds)
