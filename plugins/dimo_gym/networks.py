"""Two networks over a few tokens: a table that can hold anything, and a small perceptron that must learn."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from dimo_core.backbone import Backbone, Rows
from dimo_core.tokens import Tokens, TokenSpace
from dimo_gym.joints import CONDITIONS
from dimo_gym.partial import places

GAIN = 50.0
"""A table holds logits divided by this: Adam moves all by about its rate, and what is enough for logits would
be far too much for other weights, such as those that make noise or a latent."""

SHARP = 10.0
"""Multiplies further tokens before their softmax: those that are made of a latent start near zero."""


class OneHot(Backbone):
    """Embeddings with V + 1 coordinates a site: the one-hot code, and last the mask."""

    def __init__(self, space: TokenSpace) -> None:
        super().__init__()
        self.length, self.codes = space.length, space.codes

    def embed(self, x: Tokens | Float[Tensor, "B L V"]) -> Float[Tensor, "B L E"]:
        """One-hot tokens, or probabilities with no share of mask."""
        if x.is_floating_point():
            return F.pad(x, (0, 1))
        return F.one_hot(x, self.codes + 1).to(next(self.parameters()))

    def head(self, hidden: Float[Tensor, "... D"], rows: Rows | None = None) -> Float[Tensor, "... V"]:
        """The hidden states themselves, which are logits."""
        return hidden if rows is None else hidden.flatten(0, 1)[rows]


def is_one_hot(x: Float[Tensor, "B L E"]) -> bool:
    """Whether each site is one code or the mask, and nothing of others."""
    return bool(((x.amax(-1) == 1) & (x.abs().sum(-1) == 1)).all())


class Table(OneHot):
    """Logits by looking up the partly masked sequence, one row for each of (V + 1)^L.

    Where noise or probabilities put an embedding between one-hot ones, rows are averaged with the product of
    the sites' shares, so that logits depend smoothly on embeddings. The table can hold any generator of this
    input and any auxiliary: what is learnt wrongly, no network is to blame for.

    Args:
        space: Sites and codes.
        extra: Whether it is told further tokens: V + 1 more tables, which start as zeros, are added in the
            shares that the softmax of such a token (of the sum of several) gives them.
    """

    def __init__(self, space: TokenSpace, *, extra: bool = False) -> None:
        super().__init__(space)
        shape = (len(CONDITIONS), (space.codes + 1) ** space.length, space.length, space.codes)
        self.takes_extra = extra  # type: ignore[misc]  # of this network
        self.table = nn.Parameter(torch.zeros(shape))
        if extra:
            self.further = nn.Parameter(torch.zeros(*shape, space.codes + 1))

    def forward(
        self,
        x: Tokens | Float[Tensor, "B L E"],
        c: Int[Tensor, " B"],
        *,
        mask_ratio: Float[Tensor, " B"],
        extra: Float[Tensor, "B N E"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """The looked-up rows, times ``GAIN``; the mask ratio is visible in x."""
        if x.is_floating_point() and not x.requires_grad and is_one_hot(x):
            x = x.argmax(-1)  # as without noise: there is nothing to average
        logits = self._rows(self.table, x, c)
        if extra is not None:
            shares = (SHARP * extra.sum(1)).softmax(-1)
            logits = logits + (self._rows(self.further, x, c) @ shares[:, None, :, None]).squeeze(-1)
        return GAIN * logits

    def _rows(
        self, table: Float[Tensor, "C M ..."], x: Tokens | Float[Tensor, "B L E"], c: Int[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        flat = table.flatten(2)
        if not x.is_floating_point():
            at = c * table.shape[1] + places(x, self.codes + 1)
            return F.embedding(at, flat.flatten(0, 1)).view(len(x), *table.shape[2:])
        # Not clamp_min: its gradient at exactly 0, where one-hot sites are, depends on torch's version.
        shares = torch.where(x < 0, 0.0, x)
        # A site of nothing is a bit of everything; tiny shares at all would make products slow denormals.
        shares = torch.where(shares.sum(-1, keepdim=True) > 0, shares, 1.0)
        shares = shares / shares.sum(-1, keepdim=True)
        cut = self.length - self.length // 3  # the sum over the last sites comes after that over the others
        first, last = (_product(shares[:, sites]) for sites in (slice(cut), slice(cut, None)))
        found = x.new_zeros(len(x), flat.shape[-1])
        for k in range(len(CONDITIONS)):
            own = (c == k).nonzero()[:, 0]
            sums = first[own] @ flat[k].view(first.shape[1], -1)
            sums = sums.view(len(own), last.shape[1], flat.shape[-1])
            found = found.index_add(0, own, (last[own, None] @ sums)[:, 0])
        return found.view(len(x), *table.shape[2:])


def _product(shares: Float[Tensor, "B n E"]) -> Float[Tensor, "B M"]:
    """The product of the sites' shares for every sequence of these sites."""
    rows = shares.new_ones(len(shares), 1)
    for site in shares.unbind(1):
        rows = (rows[:, :, None] * site[:, None, :]).flatten(1)
    return rows


class Perceptron(OneHot):
    """Two hidden layers over all sites and the condition at once.

    Args:
        space: Sites and codes.
        width: Of the hidden layers.
        extra: Whether it is told further tokens, by weights that start as zeros.
    """

    def __init__(self, space: TokenSpace, width: int, *, extra: bool = False) -> None:
        super().__init__(space)
        self.takes_extra = extra  # type: ignore[misc]  # of this network
        self.first = nn.Linear(space.length * (space.codes + 1) + len(CONDITIONS), width)
        self.second = nn.Linear(width, width)
        self.last = nn.Linear(width, space.length * space.codes)
        if extra:
            self.further = nn.Linear(space.codes + 1, width, bias=False)
            nn.init.zeros_(self.further.weight)

    def forward(
        self,
        x: Tokens | Float[Tensor, "B L E"],
        c: Int[Tensor, " B"],
        *,
        mask_ratio: Float[Tensor, " B"],
        extra: Float[Tensor, "B N E"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """Logits; the mask ratio is visible in x."""
        e = x if x.is_floating_point() else self.embed(x)
        hidden = self.first(torch.cat([e.flatten(1), F.one_hot(c, len(CONDITIONS)).to(e)], 1))
        if extra is not None:
            hidden = hidden + self.further(extra.sum(1))
        hidden = F.gelu(self.second(F.gelu(hidden)))
        logits: Tensor = self.last(hidden)
        return logits.view(len(e), self.length, self.codes)
