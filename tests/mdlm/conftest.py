"""Weights of random numbers in the layouts that others write, and a tokenizer trained on a few words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

DATA = Path(__file__).parents[1] / "data" / "mdlm"


@pytest.fixture
def state() -> dict[str, Tensor]:
    """The golden weights in their published names."""
    return load_file(DATA / "model.safetensors")


@pytest.fixture
def publish(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder as published, with other tensors or entries of its configuration."""

    def write(state: dict[str, Tensor], **config: Any) -> Path:
        folder = tmp_path / "published"
        folder.mkdir(exist_ok=True)
        save_file(state, folder / "model.safetensors")
        own = json.loads((DATA / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(own | config))
        return folder

    return write


@pytest.fixture
def lightning(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    """A checkpoint of Lightning: an average that is twice the weights, and objects of unknown classes."""
    weights = {f"backbone._orig_mod.{name.removeprefix('backbone.')}": t for name, t in state.items()}
    average = [2 * t for name, t in state.items() if not name.endswith("inv_freq")]
    ema = {"decay": 0.9999, "num_updates": 3, "shadow_params": average}
    file = tmp_path / "last.ckpt"
    torch.save({"epoch": 1, "state_dict": weights, "ema": ema, "hyper_parameters": {"x": Path("y")}}, file)
    return file


@pytest.fixture(scope="session")
def byte_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``vocab.json`` and ``merges.txt`` of a small byte-level tokenizer."""
    import tokenizers

    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=272, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(["the cat sat on the mat. the dog sat on the cat."] * 9, trainer)
    folder = tmp_path_factory.mktemp("byte_pairs")
    made.model.save(str(folder))
    (folder / "whole").mkdir()
    made.save(str(folder / "whole" / "tokenizer.json"))
    return folder
