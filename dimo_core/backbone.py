"""The network that teacher, generator and auxiliary share in shape: embed, forward, head."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dimo_core.conditions import Condition
from dimo_core.errors import NumericalError
from dimo_core.tokens import Tokens

Rows = Int[Tensor, " K"]
"""Flat indices into B * L: the (sample, site) pairs whose logits are wanted."""


class Backbone(nn.Module, ABC):
    """Tokens and a condition to unguided logits over the V codes.

    A backbone keeps no state between calls and never switches gradients off. Two users of one backbone
    never change its mode or ``requires_grad`` between a forward pass and its backward pass.

    ``state_dict()`` is what a checkpoint or a generator folder holds of it: all of its tensors, or, where
    some are another network's (adapters), the others.

    Attributes:
        gathers: Whether ``head`` takes hidden states of the rows alone, too. Where it does not, each chunk of
            rows that is trained on makes a gradient of all ``[B, L, D]``.
        takes_extra: Whether ``forward`` takes ``extra``, too: further embedded tokens ``[B, N, E]``, or None.
            All sites attend to them; they have no position, and no hidden states in the result.
    """

    gathers: ClassVar[bool] = False
    takes_extra: ClassVar[bool] = False

    @abstractmethod
    def embed(self, x: Tokens | Float[Tensor, "B L V"]) -> Float[Tensor, "B L E"]:
        """Token embeddings, up to the point where Di[M]O adds noise to them.

        Args:
            x: Token ids, or probabilities over the codes, for which the result is differentiable and
                one-hot rows give the token's own embedding.
        """

    @abstractmethod
    def forward(
        self,
        x: Tokens | Float[Tensor, "B L E"],
        c: Condition,
        *,
        mask_ratio: Float[Tensor, " B"],
    ) -> Float[Tensor, "B L D"]:
        """Hidden states.

        Args:
            x: Token ids, or embeddings made by ``embed`` (floating point).
            c: The encoded conditions of the batch.
            mask_ratio: Share of masked sites of each sample; mapped to the network's time input, or ignored.
        """

    @abstractmethod
    def head(self, hidden: Float[Tensor, "... D"], rows: Rows | None = None) -> Float[Tensor, "... V"]:
        """Logits ``[B, L, V]``, or ``[K, V]`` of flat rows; V + 1 columns if the mask is scored.

        They must be finite at every site, masked or not: a generator draws at all sites, from inputs of
        random codes and noisy embeddings that no teacher was trained on.

        Args:
            hidden: ``[B, L, D]``; of a backbone that ``gathers`` also ``[K, D]``, those of the rows.
            rows: Flat indices into B L; there may be none.
        """

    def logits(
        self, x: Tokens, c: Condition, *, mask_ratio: Float[Tensor, " B"], rows: Rows | None = None
    ) -> Float[Tensor, "... V"]:
        """``head(forward(x))``."""
        return self.head(self(x, c, mask_ratio=mask_ratio), rows)

    def adapter_targets(self) -> tuple[str, ...]:
        """The linear modules that adapters may change, by the ends of their names; none by default.

        ``attn.out`` stands for that module of every block. Name only modules that are *called*: where a
        weight is used by itself, as that of a tied head, an adapter of its module would change nothing. Such
        a weight may be given to a linear module here: this is called once, on a network that is about to
        get adapters, and whose module tree may be changed.
        """
        return ()


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The modules of the outermost lists in a module: what repeats in it."""
    for child in module.children():
        if isinstance(module, nn.ModuleList) and not isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from blocks(child)


def at_rows(hidden: Float[Tensor, "... D"], rows: Rows | None) -> Float[Tensor, "... D"]:
    """``[K, D]`` of flat rows, if it is not that already: the first line of a ``head`` that ``gathers``."""
    return hidden if rows is None or hidden.dim() == 2 else hidden.flatten(0, 1).index_select(0, rows)


def full(z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Logits in fp32 at least: guidance, divergences and losses are never computed in half precision."""
    return z if z.dtype.itemsize >= 4 else z.float()


@contextmanager
def inference(*networks: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients within; afterwards every submodule has the mode that it had.

    ``no_grad`` and not ``inference_mode``: whatever a network keeps from this call must still serve training.
    What is compiled runs eagerly: other modes and batches than those of training would be compiled anew, and
    Dynamo gives a function up that has eight graphs.
    """
    modes = [(module, module.training) for network in networks for module in network.modules()]
    try:
        for network in networks:
            network.eval()
        with torch.compiler.set_stance("force_eager"), torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def drawable(network: nn.Module) -> Iterator[None]:
    """Within, every backbone's logits are looked at; waits for the device once, at the end.

    A draw from logits that are not finite gives a code like any other, and nobody would know.

    Raises:
        NumericalError: when nothing could be drawn at some site: its largest logit is NaN or infinite.
    """
    broken: list[Tensor] = []
    watched = [module for module in network.modules() if isinstance(module, Backbone)]

    def watch(head: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @wraps(head)
        def seen(*args: Any, **kwargs: Any) -> Tensor:
            logits = head(*args, **kwargs)
            if logits.numel():
                broken.append(~logits.amax(-1).isfinite().all())
            return logits

        return seen

    own = [vars(backbone).get("head") for backbone in watched]
    for backbone in watched:
        vars(backbone)["head"] = watch(backbone.head)
    try:
        yield
    finally:
        for backbone, head in zip(watched, own, strict=True):
            vars(backbone)["head"] = head
            if head is None:
                vars(backbone).pop("head")
    if broken and bool(torch.stack(broken).any()):
        bad = [name for name, tensor in network.state_dict().items() if not tensor.isfinite().all()]
        cause = (
            f"{len(bad)} tensors of the weights hold NaN or infinity, such as {bad[0]!r}"
            if bad
            else (
                "the weights are finite, so the numbers on the way are too large for their format: use fp32"
            )
        )
        raise NumericalError(f"the logits are not finite, and nothing can be drawn from them: {cause}.")
