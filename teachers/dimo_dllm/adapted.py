"""Adapters of others, in peft's layout, added to a teacher's weights."""

import json
import math
import re
from typing import Any

import torch
from torch import nn

from dimo_core.errors import CheckpointError
from dimo_core.files.cache import is_there, local_copy
from dimo_core.files.folder import Folder
from dimo_core.files.weights import read_tensors
from dimo_dllm.adapter_card import CONFIG, WEIGHTS
from dimo_dllm.architecture import Architecture

PLAIN = ("rank_pattern", "alpha_pattern", "modules_to_save", "use_dora", "lora_bias", "layers_to_transform")
"""Entries of ``adapter_config.json`` that make another sum, and that must be empty or false."""


@torch.no_grad()
def add_adapter(network: nn.Module, a: Architecture, folder: Folder) -> None:
    """Add what an adapter learnt to the weights: W + scale B A, computed in fp32, in the format of W.

    Args:
        network: With the names of transformers.
        a: Its sizes.
        folder: The adapter, under the module names of transformers or of the published code.

    Raises:
        CheckpointError: when there is none, one that is no plain LoRA, or one of another network.
    """
    scale, source = adapter_scale(folder), folder.path(WEIGHTS)
    modules = {name.removesuffix(".weight") for name, _ in network.named_parameters()}
    known = {a.published_name(f"{name}.weight").removesuffix(".weight"): name for name in modules}
    known |= {name: name for name in modules}
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in read_tensors(folder, WEIGHTS, cached=True).items():
        parts = re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight", key)
        if parts is None or parts[1] not in known:
            raise CheckpointError(f"{source}: {key[:200]!r} changes nothing that the network has")
        found.setdefault(known[parts[1]], {})[parts[2]] = tensor
    for name, pair in found.items():
        own = network.get_parameter(f"{name}.weight")
        shapes = {kind: tuple(tensor.shape) for kind, tensor in pair.items()}
        rank = shapes.get("A", (0,))[0]
        if shapes != {"A": (rank, own.shape[1]), "B": (own.shape[0], rank)}:
            raise CheckpointError(f"{source}: {name} has {shapes}, and the weight {tuple(own.shape)}")
        own.add_((scale * pair["B"].float() @ pair["A"].float()).to(own))


def adapter_scale(folder: Folder) -> float:
    """What B A is multiplied with; for this no weight is read.

    Raises:
        CheckpointError: when there is no adapter, or one that is no plain LoRA.
    """
    source = folder.path(CONFIG)
    if not (is_there(source, certain=True) and is_there(folder.path(WEIGHTS), certain=True)):
        raise CheckpointError(f"no adapter in {folder.url}: {CONFIG} and {WEIGHTS} are needed")
    try:
        config: Any = json.loads(local_copy(source).read_bytes())
        rank, alpha = config["r"], config["lora_alpha"]
        odd = [name for name in PLAIN if config.get(name)]
        plain = config["peft_type"] == "LORA" and config.get("bias", "none") == "none" and not odd
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    except (ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError, RecursionError) as error:
        raise CheckpointError(f"{source} describes no adapter: {error!r}") from error
    if not plain:
        why = odd[0] if odd else "its kind or bias"
        raise CheckpointError(f"{source} describes no plain LoRA ({why}), which alone can be added here")
    return float(scale)
