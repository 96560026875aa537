"""Logits of the masked rows, some rows at a time."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from dimo_core.backbone import Rows, full


class Logits:
    """The logits of one forward pass, made for some rows at a time.

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
        """Hand on what the rows' backward passes left."""
        if self.leaf.grad is not None:
            self.hidden.backward(self.leaf.grad)
            self.leaf.grad = None
