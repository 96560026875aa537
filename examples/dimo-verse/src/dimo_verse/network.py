"""The network: letters, the places where they stand, and a prompt."""

import torch
from dimo_core.backbone import Backbone, Rows, at_rows
from torch import Tensor, nn

ALPHABET = " abcdefghijklmnopqrstuvwxyz.,"
"""The letters; their numbers are the codes. The number behind the last one is the mask."""

MASK = len(ALPHABET)


class VerseNetwork(Backbone):
    """One transformer layer over the letters; shapes: B samples, L sites, V codes, E embedding.

    Args:
        length: L.
        width: E.
    """

    gathers = True

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.letters = nn.Embedding(len(ALPHABET) + 1, width)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        self.told = nn.Linear(width, width)
        self.layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.out = nn.Linear(width, len(ALPHABET))

    def embed(self, x: Tensor) -> Tensor:
        """``[B, L, E]`` of tokens ``[B, L]``, or the mean embedding of probabilities ``[B, L, V]``."""
        e: Tensor = x @ self.letters.weight[: x.shape[-1]] if x.is_floating_point() else self.letters(x)
        return e

    def forward(self, x: Tensor, c: Tensor, *, mask_ratio: Tensor) -> Tensor:
        """Hidden states ``[B, L, E]`` of tokens or embeddings; the mask ratio is visible in x.

        The condition is the mean embedding of a prompt's letters, ``[B, P]``, in which MASK is no letter.
        """
        e = x if x.is_floating_point() else self.embed(x)
        there = (c != MASK).to(e)[..., None]
        prompt = (self.letters(c) * there).sum(1) / there.sum(1).clamp_min(1)
        hidden: Tensor = self.layer(e + self.places + self.told(prompt)[:, None])
        return hidden

    def head(self, hidden: Tensor, rows: Rows | None = None) -> Tensor:
        """Logits ``[B, L, V]``, or ``[K, V]`` of flat rows."""
        logits: Tensor = self.out(at_rows(hidden, rows))
        return logits
