"""The teacher ``tabular``: a network whose only weight is the table of exact conditionals."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from attrs import validators as v
from jaxtyping import Float, Int
from torch import Tensor, nn

from dimo_core.backbone import Backbone, Rows
from dimo_core.choice import Choice
from dimo_core.conditions import Conditioning
from dimo_core.errors import UsageError
from dimo_core.suggestions import EvaluationPlan, Recipe
from dimo_core.teacher import Teacher
from dimo_core.tokens import Tokens, TokenSpace
from dimo_toy_tabular.joint import CODES, LENGTH, MASK, joint, log_conditionals

SIDES = ("heads", "tails")


class TableBackbone(Backbone):
    """Logits by looking up the partly masked sequence in a table, one row for each of 5^4.

    Embeddings have 5 coordinates a site: the one-hot code, and last the mask. A sequence of one-hot sites
    picks one row. In between, where noise or probabilities put an embedding, rows are averaged with the
    product of the sites' shares, so that logits depend smoothly on embeddings. Every entry of the table can
    be learnt, hence the table can hold any generator of this input and any auxiliary.
    """

    def __init__(self) -> None:
        """A table of zeros."""
        super().__init__()
        self.table = nn.Parameter(torch.zeros(len(SIDES), (CODES + 1) ** LENGTH, LENGTH, CODES))

    def embed(self, x: Tokens | Float[Tensor, "B L V"]) -> Float[Tensor, "B L E"]:
        """The one-hot tokens, or the probabilities with no share of mask."""
        if x.is_floating_point():
            return F.pad(x, (0, 1))
        return F.one_hot(x, CODES + 1).to(self.table)

    def forward(
        self, x: Tokens | Float[Tensor, "B L E"], c: Int[Tensor, " B"], *, mask_ratio: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L D"]:
        """The looked-up rows, which are the logits already; the mask ratio is visible in x."""
        e = x if x.is_floating_point() else self.embed(x)
        # Not clamp_min: its gradient at exactly 0, where one-hot sites are, depends on torch's version.
        shares = torch.where(e < 0, 0.0, e) + torch.finfo(e.dtype).tiny
        shares = shares / shares.sum(-1, keepdim=True)
        rows = F.one_hot(c, len(SIDES)).to(e)
        for i in range(LENGTH):
            rows = (rows[:, :, None] * shares[:, i, None, :]).flatten(1)
        logits: Tensor = rows @ self.table.flatten(2).flatten(0, 1)
        return logits.view(len(x), LENGTH, CODES)

    def head(self, hidden: Float[Tensor, "... D"], rows: Rows | None = None) -> Float[Tensor, "... V"]:
        """The hidden states themselves."""
        return hidden if rows is None else hidden.flatten(0, 1)[rows]


@attrs.frozen(kw_only=True)
class Tabular(Teacher):
    """Four tokens of four codes, given heads or tails; every conditional is exact.

    Attributes:
        noise: Share of the joint distribution that is spread evenly over all sequences.
    """

    noise: float = attrs.field(default=0.02, validator=[v.gt(0), v.lt(1)])

    @property
    def tokens(self) -> TokenSpace:
        """Four sites in a row."""
        return TokenSpace(length=LENGTH, codes=CODES, mask_id=MASK)

    @property
    def conditioning(self) -> Conditioning:
        """A kind of its own, so that only a source of coins is accepted."""
        return Conditioning(kind="coin", classes=SIDES)

    def joint(self) -> Float[Tensor, "2 4 4 4 4"]:
        """The exact p(x | c)."""
        return joint(self.noise)

    def skeleton(self) -> TableBackbone:
        """A table of zeros."""
        return TableBackbone()

    @cached_property
    def _table(self) -> nn.Parameter:
        return nn.Parameter(log_conditionals(self.joint()), requires_grad=False)

    def network(self, *, share: bool = False) -> TableBackbone:
        """The table of log-conditionals: the teacher's own tensor, or a copy."""
        network = self.skeleton().eval()
        network.table = self._table if share else nn.Parameter(self._table.clone())
        return network

    def encode_conditions(self, raw: Sequence[Any]) -> Int[Tensor, " B"]:
        """0 for heads and 1 for tails; the source of conditions reads words.

        Raises:
            UsageError: for anything else.
        """
        if wrong := [side for side in raw if side not in (0, 1)]:
            raise UsageError(f"a coin shows 0 (heads) or 1 (tails), not {wrong[0]!r}")
        return torch.tensor(raw, dtype=torch.long)

    def recipes(self) -> Mapping[str, Recipe]:
        """One preset: half a minute on one core."""
        part = {"warmup": 0, "clip": None}
        return {
            "fast": {
                "divergence": {"name": "bhattacharyya"},
                "conditions": {"name": "coins"},
                "objective": {
                    "name": "dimo",
                    "generator": {"lr": 0.1, "ema": 0.98, **part},
                    "auxiliary": {"lr": 0.3, **part},
                },
                "train": {"steps": 600, "batch_size": 256},
            }
        }

    def evaluation(self) -> EvaluationPlan:
        """Total variation from the exact joint distribution; no reference is needed."""
        return EvaluationPlan(
            metrics=(Choice("tabular"),),
            best="tv",
            conditions=Choice("coins"),
            samples=8000,
            steps=(4, 2, 1),
            sampler=Choice("maskgit", {"order": "random"}),
            shown=("tv", "of_one_step"),
        )
