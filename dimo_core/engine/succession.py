"""Frozen modules that take over what a part has learnt: teachers that their students replace."""

from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import Tensor

from dimo_core.engine.part_state import PartState
from dimo_core.errors import CheckpointError
from dimo_core.files.weights import assign, whole
from dimo_core.objective import Objective

PREFIX = "frozen."
"""Begins the names of their files in a checkpoint."""


def heirs(objective: Objective) -> dict[str, Mapping[str, Tensor]]:
    """The tensors of these modules, by file: they change, so a checkpoint holds them."""
    frozen = objective.frozen()
    return {f"{PREFIX}{name}": frozen[name].state_dict() for name in objective.successions()}


def load_heirs(objective: Objective, files: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Take over what ``heirs`` gave.

    Raises:
        CheckpointError: when it belongs to another objective.
    """
    frozen = objective.frozen()
    for name in objective.successions():
        if f"{PREFIX}{name}" not in files:
            raise CheckpointError(f"the checkpoint lacks {PREFIX}{name}; its objective differs from this one")
        assign(frozen[name], files[f"{PREFIX}{name}"], f"the checkpoint of {name!r}")


def hand_over(objective: Objective, states: Mapping[str, PartState], step: int) -> None:
    """After ``step`` steps: whose turn it is takes over the weights of its part."""
    for name, succession in objective.successions().items():
        if step % succession.every:
            continue
        part = states[succession.part]
        with part.averaged() if succession.averaged else nullcontext(), torch.no_grad():
            learnt = part.module.state_dict()
            for key, tensor in objective.frozen()[name].state_dict().items():
                tensor.copy_(whole(learnt[key]))
