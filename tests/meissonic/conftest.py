"""A tiny Meissonic folder in the published layout, made of the golden parts."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from safetensors.torch import load_file
from torch import Tensor

from dimo_core.conditions import Conditioning
from dimo_core.sources import Conditions, ConditionStream
from dimo_meissonic.teacher import Meissonic

GOLDEN = Path(__file__).parents[1] / "data" / "meissonic"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
MERGED = (
    "t h", "th e</w>", "i n", "a n", "r e</w>", "r e", "o n</w>", "e r</w>", "a t</w>", "c at</w>", "h a",
    "l e</w>", "o f</w>", "an d</w>", "b l", "in g</w>", "e d</w>", "re d</w>", "s t", "o u", "ou r</w>",
    "g re", "e n</w>", "gre en</w>", "ha t</w>",
)  # fmt: skip
"""Pairs that the tokenizer joins."""


@attrs.frozen(kw_only=True)
class Prompts(Conditions):
    """A few prompts in turn.

    Attributes:
        prompts: The prompts.
    """

    prompts: tuple[str, ...] = ("a red cat", "the green hat", "an hour of rest")

    def open(self, conditioning: Conditioning, *, seed: int) -> ConditionStream:
        assert conditioning.kind == "text"
        return PromptStream(self.prompts)

    def balanced(self, conditioning: Conditioning, count: int) -> list[Any]:
        return PromptStream(self.prompts).read(0, count)


@attrs.frozen
class PromptStream(ConditionStream):
    prompts: Sequence[str]

    def read(self, start: int, count: int) -> list[Any]:
        return [self.prompts[i % len(self.prompts)] for i in range(start, start + count)]


def write_tokenizer(folder: Path) -> None:
    """A byte-level BPE of 99 entries: letters and digits, in a word and at its end, pairs, two marks."""
    single = [*LETTERS, *"0123456789"]
    joined = [pair.replace(" ", "") for pair in MERGED]
    entries = [*single, *(f"{letter}</w>" for letter in single), *joined]
    start, end = "<|startoftext|>", "<|endoftext|>"
    assert len(set(entries)) == 97
    folder.mkdir()
    vocabulary = {entry: i for i, entry in enumerate([*entries, start, end])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGED, ""]))
    marks = {"bos_token": start, "eos_token": end, "pad_token": end, "unk_token": end}
    (folder / "special_tokens_map.json").write_text(json.dumps(marks))
    config = {**marks, "tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_folder(folder: Path) -> Path:
    """The published layout, with files of others in it."""
    shutil.copytree(GOLDEN / "tiny_down" / "transformer", folder / "transformer")
    shutil.copytree(GOLDEN / "tiny_vq" / "vqvae", folder / "vqvae")
    shutil.copytree(GOLDEN / "tiny_text" / "text_encoder", folder / "text_encoder")
    write_tokenizer(folder / "tokenizer")
    (folder / "transformer" / "transformer.py").write_text("raise SystemExit('never run this')\n")
    return folder


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("hub") / "Meissonic")


@pytest.fixture
def options(published: Path) -> dict[str, Any]:
    """Options of the tiny teacher."""
    return {"checkpoint": str(published), "grid": (8, 8), "text_device": "cpu"}


@pytest.fixture
def teacher(options: dict[str, Any]) -> Meissonic:
    return Meissonic(**options)


@pytest.fixture
def prompts() -> Prompts:
    return Prompts()


@pytest.fixture(scope="session")
def tensors() -> Callable[[str], dict[str, Tensor]]:
    """Golden tensors by path below the folder."""
    return lambda name: load_file(str(GOLDEN / f"{name}.safetensors"))
