"""LLaDA and Dream at a tiny size, and values of the published code."""

import json
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

GOLDEN = Path(__file__).parents[1] / "data"
FAMILIES: tuple[Family, ...] = ("llada", "dream")


def table(family: str, name: str) -> Any:
    return json.loads((GOLDEN / family / f"{name}.json").read_text())


def tensors(family: str, name: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / family / f"{name}.safetensors")


def published(family: Family) -> Published:
    return Published(family=family, folder=Folder(str(GOLDEN / family)))


@pytest.fixture
def network() -> Callable[..., DllmNetwork]:
    """The golden network of a family, in fp64 unless told otherwise."""

    def made(family: Family, dtype: torch.dtype = torch.float64) -> DllmNetwork:
        found = published(family)
        network = DllmNetwork(found.architecture).eval()
        found.fill(network)
        return network.to(dtype)

    return made
