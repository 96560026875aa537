"""Fixtures shared by all tests: a tiny teacher with random weights, and golden values."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from hypothesis import settings
from jaxtyping import Float
from loguru import logger
from safetensors.torch import load_file
from torch import Tensor, nn

from dimo_core.backbone import Backbone, Rows
from dimo_core.conditions import Conditioning
from dimo_core.suggestions import EvaluationPlan, Recipe
from dimo_core.teacher import Teacher
from dimo_core.tokens import Tokens, TokenSpace

DATA = Path(__file__).parent / "data"

if "PYTEST_XDIST_WORKER" in os.environ:  # one worker a core
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"

# That a machine is busy is no fault of the code. `pytest --hypothesis-profile thorough` tries more examples.
settings.register_profile("dimo", deadline=None, max_examples=40)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile("dimo")


class TinyBackbone(Backbone):
    """Embedding, one mixing layer with dropout, linear head."""

    def __init__(self, space: TokenSpace, classes: int, width: int = 8) -> None:
        super().__init__()
        self.tok_emb = nn.Embedding(space.codes + 1, width)
        self.class_emb = nn.Embedding(classes + 1, width)
        self.mix = nn.Sequential(
            nn.Linear(width * space.length, 16),
            nn.GELU(),
            nn.Dropout(0.5),
            nn.Linear(16, width * space.length),
        )
        self.out = nn.Linear(width, space.columns)

    def embed(self, x: Tokens | Float[Tensor, "B L V"]) -> Float[Tensor, "B L E"]:
        if x.is_floating_point():
            return x @ self.tok_emb.weight[: x.shape[-1]]
        return self.tok_emb(x)

    def forward(
        self, x: Tokens | Float[Tensor, "B L E"], c: Tensor, *, mask_ratio: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L D"]:
        e = x if x.is_floating_point() else self.embed(x)
        e = e + self.class_emb(c)[:, None]
        return e + self.mix(e.flatten(1)).view_as(e)

    def head(self, hidden: Float[Tensor, "... D"], rows: Rows | None = None) -> Float[Tensor, "... V"]:
        return self.out(hidden if rows is None else hidden.flatten(0, 1)[rows])


@attrs.frozen(kw_only=True)
class TinyTeacher(Teacher):
    """A teacher of random weights over a few tokens.

    Attributes:
        seed: Seed of the weights.
        keep: Whether the mask token is scored.
    """

    seed: int = 0
    keep: bool = False

    capabilities = frozenset({"guidance"})

    @property
    def tokens(self) -> TokenSpace:
        return TokenSpace(length=4, codes=5, mask_id=5, scores_mask=self.keep)

    @property
    def conditioning(self) -> Conditioning:
        return Conditioning(kind="label", classes=("a", "b"))

    def network(self, *, share: bool = False) -> Backbone:
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return self.skeleton().eval()

    def skeleton(self) -> Backbone:
        return TinyBackbone(self.tokens, 2)

    def encode_conditions(self, raw: Sequence[Any]) -> Tensor:
        return torch.tensor(list(raw))

    def null_condition(self, c: Tensor) -> Tensor:
        return torch.full_like(c, 2)

    def frozen_parameters(self) -> tuple[str, ...]:
        return ("tok_emb.weight",)

    def recipes(self) -> Mapping[str, Recipe]:
        return {"fast": {}}

    def evaluation(self) -> EvaluationPlan | None:
        return None


@pytest.fixture
def tiny_teacher() -> TinyTeacher:
    return TinyTeacher()


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Tensor]]:
    """Golden tensors by file name."""
    return lambda name: load_file(str(DATA / f"{name}.safetensors"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remote files of one test are not those of another, nor of the person who runs them."""
    monkeypatch.setenv("DIMO_CACHE", str(tmp_path_factory.mktemp("cache", numbered=True)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a device are skipped where there is none, each with this reason."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and torch finds none"))


@pytest.fixture
def told() -> Iterator[list[str]]:
    """The lines of the log from INFO on."""
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line)), level="INFO", format="{message}")
    yield lines
    logger.remove(sink)
