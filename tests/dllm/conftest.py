"""LLaDA and Dream at a tiny size, values of the published code, and small tokenizers trained here."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dimo_core.files.folder import Folder
from dimo_dllm.architecture import Family
from dimo_dllm.files import Published
from dimo_dllm.network import DllmNetwork
from dimo_dllm.teacher import DllmTeacher, Dream, Llada

GOLDEN = Path(__file__).parents[1] / "data"
FAMILIES: tuple[Family, ...] = ("llada", "dream")
TEACHERS: dict[Family, type[DllmTeacher]] = {"llada": Llada, "dream": Dream}

CORPUS = (
    "the cat sat on the mat. the dog ate the cat? no, the dog is kind.",
    "user\n\nassistant\n\nsystem\nyou are a helpful assistant.",
    "what is one and one? it is 2. jkqvwxz 0123456789",
)
SPECIAL: dict[Family, tuple[str, ...]] = {
    "llada": (
        "<|endoftext|>", "<|startoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<role>",
        "<|mdm_mask|>", "<|reserved_1|>", "<|reserved_2|>", "<|eot_id|>",
    ),
    "dream": (
        "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|beginoftext|>", "<|r0|>", "<|r1|>", "<|r2|>",
        "<|mask|>",
    ),
}  # fmt: skip
"""From id 51 on."""


def table(family: str, name: str) -> Any:
    return json.loads((GOLDEN / family / f"{name}.json").read_text())


def tensors(family: str, name: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / family / f"{name}.safetensors")


def published(family: Family) -> Published:
    return Published(family=family, folder=Folder(str(GOLDEN / family)))


def write_tokenizer(folder: Path, family: Family) -> None:
    """A BPE of 51 entries, and the special tokens behind them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE(unk_token="?"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=51, show_progress=False))
    assert made.get_vocab_size() == 51
    made.add_special_tokens(list(SPECIAL[family]))
    made.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[Family, Path]:
    """Golden networks with tokenizers, and Python files that nobody may run."""
    found = {}
    for family in FAMILIES:
        folder = tmp_path_factory.mktemp("dllm") / family
        folder.mkdir()
        for path in (GOLDEN / family).glob("*model*"):
            shutil.copy(path, folder)
        shutil.copy(GOLDEN / family / "config.json", folder)
        write_tokenizer(folder, family)
        stop = "raise SystemExit('never run this')\n"
        for name in ("modeling", "configuration", "tokenization"):
            (folder / f"{name}_{family}.py").write_text(stop)
        own = {
            "tokenizer_class": f"{family}Tokenizer",
            "auto_map": {"AutoTokenizer": [f"tokenization_{family}.T"]},
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(own))
        found[family] = folder
    return found


@pytest.fixture
def teacher(folders: dict[Family, Path]) -> Callable[..., DllmTeacher]:
    """A tiny teacher of a family."""

    def made(family: Family, **options: Any) -> DllmTeacher:
        sizes = {"prompt": 6, "answer": 8, "chat": False, "dtype": "fp32", **options}
        return TEACHERS[family](path=str(folders[family]), **sizes)

    return made


@pytest.fixture
def network() -> Callable[..., DllmNetwork]:
    """The golden network of a family, in fp64 unless told otherwise."""

    def made(family: Family, dtype: torch.dtype = torch.float64) -> DllmNetwork:
        found = published(family)
        network = DllmNetwork(found.architecture).eval()
        found.fill(network)
        return network.to(dtype)

    return made
