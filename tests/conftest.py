"""Fixtures shared by all tests: a tiny teacher with random weights, and golden values."""

import json
import os
import signal
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
from dimo_core.errors import UsageError
from dimo_core.suggestions import EvaluationPlan, Recipe
from dimo_core.teacher import Teacher
from dimo_core.tokens import Tokens, TokenSpace

DATA = Path(__file__).parent / "data"

if "PYTEST_XDIST_WORKER" in os.environ:  # one worker a core
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"

if hasattr(signal, "SIGHUP"):  # nohup ignores it, in all that it starts
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

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
        if wrong := [label for label in raw if label not in (0, 1)]:
            raise UsageError(f"there is no class {wrong[0]!r}")
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


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP of random weights, in the published layout."""
    from transformers.models.clip.configuration_clip import CLIPConfig
    from transformers.models.clip.modeling_clip import CLIPModel

    folder = tmp_path_factory.mktemp("clip")
    letters, marks_of_text = [*"abcdefghijklmnopqrstuvwxyz"], ("<|startoftext|>", "<|endoftext|>")
    entries = [*letters, *(f"{letter}</w>" for letter in letters), *marks_of_text]
    (folder / "vocab.json").write_text(json.dumps({entry: i for i, entry in enumerate(entries)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    start, end = (entries.index(mark) for mark in marks_of_text)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    marks = {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
    config = CLIPConfig(
        text_config={**tower, **marks, "vocab_size": len(entries), "max_position_embeddings": 12},
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(config)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    pictures = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


@pytest.fixture(scope="session")
def random_inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the network, in the published format, in a folder like torch's cache."""
    from dimo_metrics.inception import FILES
    from dimo_metrics.library import load_torch_fidelity

    load_torch_fidelity()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    def keep(self: Any, state: object) -> None:
        pass

    file = tmp_path_factory.mktemp("torch") / "checkpoints" / FILES[0]
    file.parent.mkdir()
    empty = file.with_name("empty.pth")
    torch.save({}, empty)
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", keep)
        network = FeatureExtractorInceptionV3("n", ["2048"], feature_extractor_weights_path=str(empty))
    torch.save(network.state_dict(), file)
    return file


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remote files of one test are not those of another, nor of the person who runs them."""
    monkeypatch.setenv("DIMO_CACHE", str(tmp_path_factory.mktemp("cache", numbered=True)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a device are skipped where there is none, each with this reason.

    ``DIMO_GPU_TESTS_ON=cpu`` runs their bodies on the CPU: a rehearsal, which shows nothing of a device.
    """
    if not torch.cuda.is_available() and "DIMO_GPU_TESTS_ON" not in os.environ:
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
