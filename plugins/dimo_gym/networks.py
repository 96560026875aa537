"""Two networks over a few tokens: a table that can hold anything, and a small perceptron that must learn."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from dimo_core.backbone import Backbone, Rows
from dimo_core.tokens import Tokens, TokenSpace
from dimo_gym.joints import CONDITIONS
from dimo_gym.partial import places


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
    """

    def __init__(self, space: TokenSpace) -> None:
        """A table of zeros."""
        super().__init__(space)
        rows = (space.codes + 1) ** space.length
        self.table = nn.Parameter(torch.zeros(len(CONDITIONS), rows, space.length, space.codes))

    def forward(
        self, x: Tokens | Float[Tensor, "B L E"], c: Int[Tensor, " B"], *, mask_ratio: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L D"]:
        """The looked-up rows; the mask ratio is visible in x."""
        if x.is_floating_point() and not x.requires_grad and is_one_hot(x):
            x = x.argmax(-1)  # as without noise: there is nothing to average
        if not x.is_floating_point():
            at = c * self.table.shape[1] + places(x, self.codes + 1)
            return F.embedding(at, self.table.flatten(0, 1).flatten(1)).view(len(x), self.length, self.codes)
        # Not clamp_min: its gradient at exactly 0, where one-hot sites are, depends on torch's version.
        shares = torch.where(x < 0, 0.0, x) + torch.finfo(x.dtype).tiny
        shares = shares / shares.sum(-1, keepdim=True)
        rows = F.one_hot(c, len(CONDITIONS)).to(x)
        for i in range(self.length):
            rows = (rows[:, :, None] * shares[:, i, None, :]).flatten(1)
        logits: Tensor = rows @ self.table.flatten(2).flatten(0, 1)
        return logits.view(len(x), self.length, self.codes)


class Perceptron(OneHot):
    """Two hidden layers over all sites and the condition at once."""

    def __init__(self, space: TokenSpace, width: int) -> None:
        super().__init__(space)
        self.first = nn.Linear(space.length * (space.codes + 1) + len(CONDITIONS), width)
        self.second = nn.Linear(width, width)
        self.last = nn.Linear(width, space.length * space.codes)

    def forward(
        self, x: Tokens | Float[Tensor, "B L E"], c: Int[Tensor, " B"], *, mask_ratio: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L D"]:
        """Logits; the mask ratio is visible in x."""
        e = x if x.is_floating_point() else self.embed(x)
        hidden = self.first(torch.cat([e.flatten(1), F.one_hot(c, len(CONDITIONS)).to(e)], 1))
        hidden = F.gelu(self.second(F.gelu(hidden)))
        logits: Tensor = self.last(hidden)
        return logits.view(len(e), self.length, self.codes)
