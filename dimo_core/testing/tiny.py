"""A teacher of random weights, for the tests of samplers, metrics, conditions and objectives."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import attrs
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dimo_core.backbone import Backbone, Rows, at_rows
from dimo_core.conditions import Conditioning
from dimo_core.errors import UsageError
from dimo_core.teacher import Teacher
from dimo_core.tokens import Tokens, TokenSpace

CLASSES = ("a", "b", "c")
"""Labels that it takes."""


class TinyNetwork(Backbone):
    """Embeddings, one mixing layer, and a linear head."""

    gathers = True

    def __init__(self, space: TokenSpace, width: int = 8) -> None:
        super().__init__()
        self.codes = nn.Embedding(space.codes + 1, width)
        self.told = nn.Embedding(256, width)
        self.mix = nn.Linear(width * space.length, width * space.length)
        self.out = nn.Linear(width, space.codes)

    def embed(self, x: Tokens | Float[Tensor, "B L V"]) -> Float[Tensor, "B L E"]:
        """Embeddings of tokens, or their mean under probabilities."""
        e: Tensor = x @ self.codes.weight[: x.shape[-1]] if x.is_floating_point() else self.codes(x)
        return e

    def forward(
        self, x: Tokens | Float[Tensor, "B L E"], c: Int[Tensor, " B"], *, mask_ratio: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L D"]:
        """Each site sees all others, and the condition."""
        e = x if x.is_floating_point() else self.embed(x)
        e = e + self.told(c)[:, None]
        hidden: Tensor = e + self.mix(e.flatten(1)).view_as(e).tanh()
        return hidden

    def head(self, hidden: Float[Tensor, "... D"], rows: Rows | None = None) -> Float[Tensor, "... V"]:
        """Linear."""
        logits: Tensor = self.out(at_rows(hidden, rows))
        return logits


@attrs.frozen(kw_only=True)
class TinyTeacher(Teacher):
    """Six sites of five codes; random weights, always the same.

    Attributes:
        kind: What conditions it takes: one of the labels a, b and c, any text, or none.
    """

    kind: Literal["label", "text", "none"] = "label"

    capabilities = frozenset({"guidance"})

    @property
    def tokens(self) -> TokenSpace:
        """Five codes, and the mask as a sixth id."""
        return TokenSpace(length=6, codes=5, mask_id=5)

    @property
    def conditioning(self) -> Conditioning:
        """Of the chosen kind."""
        return Conditioning(kind=self.kind, classes=CLASSES if self.kind == "label" else ())

    @cached_property
    def _weights(self) -> dict[str, nn.Parameter]:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            return dict(TinyNetwork(self.tokens).named_parameters())

    def network(self, *, share: bool = False) -> TinyNetwork:
        """The network; with ``share`` its tensors are those of every other shared one."""
        network = self.skeleton().eval()
        own = {name: p if share else nn.Parameter(p.detach().clone()) for name, p in self._weights.items()}
        network.load_state_dict(own, assign=True)
        return network

    def skeleton(self) -> TinyNetwork:
        """The network with arbitrary weights."""
        return TinyNetwork(self.tokens)

    def encode_conditions(self, raw: Sequence[Any]) -> Int[Tensor, " B"]:
        """A number from 1 to 255 for each label or text.

        Raises:
            UsageError: for anything else.
        """
        if self.kind == "label":
            wrong = [label for label in raw if label not in range(len(CLASSES))]
        else:
            wrong = [text for text in raw if not isinstance(text, str)]
        if wrong:
            raise UsageError(f"conditions of this teacher are of the kind {self.kind!r}, not {wrong[0]!r}")
        if self.kind == "label":
            return torch.tensor([1 + int(label) for label in raw])
        return torch.tensor([1 + sum(text.encode()) % 255 for text in raw])

    def null_condition(self, c: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """The number 0."""
        return torch.zeros_like(c)
