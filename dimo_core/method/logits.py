"""Logits of rows, a chunk of rows at a time.

A [K, V] tensor of a text-to-image teacher is as large as its network, and equations 3 and 4 need ten of them.
So a network runs once to its hidden states, and its head for as many rows as are to be alive.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from dimo_core.auxiliary import Auxiliary
from dimo_core.backbone import Rows, at_rows, full
from dimo_core.generator import Generator

ELEMENTS = 2**24
"""Logits that are alive at a time, per tensor: 64 MiB in fp32."""

Chunk = Float[Tensor, "k V"]
"""Logits of some of K rows, in fp32 at least."""


def chunks(count: int, sites: int, columns: int) -> list[slice]:
    """``count`` rows in runs whose logits have ``ELEMENTS`` entries at most: memory stops growing with rows.

    There are as many runs as ``sites`` rows would need, whatever ``count`` is, and some may be empty:
    processes that share a head must call it equally often, and each has masked other sites. What is computed
    in chunks differs from one whole by the rounding of matrix products at most.

    Args:
        count: Rows.
        sites: Rows that there could be, B L.
        columns: Logits of a row.
    """
    runs = -(-sites // max(1, ELEMENTS // columns))
    size = -(-count // max(1, runs))
    return [slice(i * size, (i + 1) * size) for i in range(runs)]


class Logits:
    """The logits of one forward pass at K rows, made for k of them when they are asked for.

    Where the head allows, the rows are gathered once, so that a chunk's gradient is [k, D] and all of them
    fill one [K, D]. ``backward`` then sends it through the network, once.

    Args:
        hidden: Hidden states, with their graph.
        rows: Flat indices.
        model: Whose head it is.
        learns: Whether backward passes from the logits are to come.
    """

    def __init__(
        self,
        hidden: Float[Tensor, "B L D"],
        rows: Rows,
        model: Generator | Auxiliary,
        *,
        learns: bool = False,
    ) -> None:
        self.rows, self.model, self.learns = rows, model, learns
        with torch.set_grad_enabled(learns):
            self.hidden = at_rows(hidden, rows) if model.gathers else hidden
        self.grad = torch.zeros_like(self.hidden) if learns else None

    def __call__(self, k: slice) -> Chunk:
        """The logits of these of the rows, in fp32 at least."""
        seen = k if self.model.gathers else slice(None)
        leaf = self.hidden[seen].detach()
        with torch.set_grad_enabled(self.learns and torch.is_grad_enabled()):
            if self.grad is not None and torch.is_grad_enabled():
                leaf.requires_grad_().grad = self.grad[seen]  # a backward pass adds in place
            return full(self.model.head(leaf, self.rows[k]))

    def backward(self) -> None:
        """Hand on what the rows' backward passes left, if anything."""
        if self.hidden.requires_grad:
            self.hidden.backward(self.grad)
