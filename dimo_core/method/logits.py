"""Logits of rows, a chunk of rows at a time.

A [K, V] tensor of a text-to-image teacher is as large as its network, and equations 3 and 4 need ten of them.
So a network runs once to its hidden states, and its head for as many rows as are to be alive.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dimo_core.backbone import Rows, full

ELEMENTS = 2**24
"""Logits that are alive at a time, per tensor: 64 MiB in fp32."""


def chunks(rows: Rows, columns: int) -> tuple[Int[Tensor, " _"], ...]:
    """``rows`` in runs whose logits have ``ELEMENTS`` entries at most: memory stops growing with rows.

    What is computed in chunks differs from one whole by the rounding of matrix products at most.

    Args:
        rows: Flat indices.
        columns: Logits of a row.
    """
    return torch.split(rows, max(1, ELEMENTS // columns))


class Logits:
    """The logits of one forward pass, made for a chunk of rows when they are asked for.

    Gradients gather at the hidden states; ``backward`` then sends them through the network, once.

    Args:
        hidden: Hidden states, with their graph.
        head: Logits of rows, from hidden states.
    """

    def __init__(self, hidden: Float[Tensor, "B L D"], head: Callable[[Tensor, Rows], Tensor]) -> None:
        self.hidden, self.head = hidden, head
        self.leaf = hidden.detach().requires_grad_(hidden.requires_grad)

    def __call__(self, rows: Rows) -> Float[Tensor, "k V"]:
        """The logits of flat rows, in fp32 at least."""
        return full(self.head(self.leaf, rows))

    def backward(self) -> None:
        """Hand on what the rows' backward passes left, if anything."""
        if self.leaf.grad is not None:
            self.hidden.backward(self.leaf.grad)
            self.leaf.grad = None
