"""A teacher whose network is a small mask transformer that scores the mask token, as the reference does."""

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from dimo_core.conditions import Conditioning
from dimo_core.draws import Draws
from dimo_core.files.weights import assign
from dimo_core.teacher import Teacher
from dimo_core.tokens import TokenSpace
from dimo_maskgit.transformer import Architecture, MaskTransformer

SIZES = Architecture(width=8, depth=1, heads=2, mlp=12, dropout=0.0, grid=4, codes=6, classes=3)


@attrs.frozen(kw_only=True, slots=False)
class SmallTeacher(Teacher):
    """Attributes:
    architecture: Of its network.
    weights: Of its network; None for random ones.
    """

    architecture: Architecture = SIZES
    weights: Any = attrs.field(default=None, eq=False)

    capabilities = frozenset({"guidance"})

    @property
    def tokens(self) -> TokenSpace:
        a = self.architecture
        return TokenSpace(length=a.grid**2, codes=a.codes, mask_id=a.codes, scores_mask=True)

    @property
    def conditioning(self) -> Conditioning:
        return Conditioning(kind="label", classes=tuple(map(str, range(self.architecture.classes))))

    def skeleton(self) -> MaskTransformer:
        return MaskTransformer(self.architecture, self.tokens.columns)

    def network(self, *, share: bool = False) -> MaskTransformer:
        made, random = self.skeleton().double().eval(), torch.Generator().manual_seed(0)
        if self.weights is not None:
            assign(made, self.weights, "golden")
            return made
        for p in made.parameters():
            p.data = torch.randn(p.shape, generator=random, dtype=torch.float64) / 2
        return made

    def encode_conditions(self, raw: Any) -> Tensor:
        return torch.tensor(list(raw))

    def null_condition(self, c: Tensor) -> Tensor:
        return torch.full_like(c, self.architecture.classes)

    def recipes(self) -> Any:
        return {"fast": {}}

    def evaluation(self) -> None:
        return None


@attrs.frozen(kw_only=True)
class Written(Draws):
    """Draws that were written down, by stream, or by the step of a sampler and stream."""

    values: Any

    def _written(self, stream: str, *_: Any) -> Tensor:
        found: Tensor = self.values[stream]
        if "/" in self.phase:
            found = found[int(self.phase.rpartition("/")[2])]
        return found[self.start : self.start + self.count]

    uniform = normal = gumbel = _written  # type: ignore[assignment]


def number_of(token: Tensor, logits: Tensor) -> Tensor:
    """The uniform number in the middle of those with which ``categorical`` draws a token."""
    p = logits.double().softmax(-1)
    place = token[..., None]
    return (p.cumsum(-1).gather(-1, place) - p.gather(-1, place) / 2).squeeze(-1)


@pytest.fixture
def small() -> Callable[..., SmallTeacher]:
    return SmallTeacher


@pytest.fixture
def written() -> Callable[..., Written]:
    return Written


@pytest.fixture
def numbers() -> Callable[[Tensor, Tensor], Tensor]:
    return number_of
