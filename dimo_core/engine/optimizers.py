"""Optimisers by name, and their state as plain tensors: none of them is written here."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dimo_core.errors import CheckpointError, MissingLibraryError, UsageError
from dimo_core.libraries import FAILURES, import_beside_torchvision
from dimo_core.objective import Optimisation

SMALLEST, BLOCK, MAP = 4096, 256, 256
"""torchao keeps moments of so many entries in 8 bits, or more; so many share a scale; entries of its map."""


def made(
    decayed: Iterable[nn.Parameter], others: Iterable[nn.Parameter], o: Optimisation
) -> torch.optim.Optimizer:
    """The optimiser that is asked for, its weight decay for some of the parameters.

    Raises:
        MissingLibraryError: when its library does not load.
        UsageError: when it cannot work on parameters that are divided among processes.
    """
    groups: list[dict[str, Any]] = [
        {"params": list(decayed), "weight_decay": o.weight_decay},
        {"params": list(others), "weight_decay": 0.0},
    ]
    every: list[nn.Parameter] = [p for group in groups for p in group["params"]]
    how: dict[str, Any] = {"betas": (o.beta1, o.beta2), "eps": o.eps}
    if o.optimizer == "adamw":
        return torch.optim.AdamW(groups, **how, fused=all(p.device.type in ("cpu", "cuda") for p in every))
    if any(hasattr(p, "to_local") for p in every):
        raise UsageError(
            f"optimizer {o.optimizer} works in one process. With several, use adamw, whose moments "
            "train.shards splits."
        )
    try:
        library = import_beside_torchvision("torchao.optim")
    except FAILURES as error:
        raise MissingLibraryError(
            f"optimizer {o.optimizer} is torchao's, which does not load ({type(error).__name__}: {error}). "
            'Install it: pip install "dimo[8bit]"; or use optimizer adamw.'
        ) from error
    optimizer: torch.optim.Optimizer = library.AdamW8bit([g for g in groups if g["params"]], **how)
    return optimizer


def moments_bytes(parameter: Tensor, o: Optimisation) -> int:
    """What the two moments of a parameter, or of this process's part of it, take."""
    n = parameter.numel()
    if o.optimizer == "adamw-8bit" and n >= SMALLEST and n % BLOCK == 0:
        return 2 * (n + 4 * (n // BLOCK) + 4 * MAP)
    return 2 * n * parameter.element_size()


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group this learning rate, in place where it is a tensor that compiled code reads."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def state_tensors(optimizer: torch.optim.Optimizer, trained: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The optimiser's own tensors, by parameter and key; of a compressed one the plain tensors within."""
    return {
        name: tensor
        for n, p in trained.items()
        for key, value in optimizer.state.get(p, {}).items()
        for name, tensor in _plain(f"{n}.{key}", value)
    }


def _plain(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    inner: Any = getattr(tensor, "__tensor_flatten__", None)
    if inner is None or hasattr(tensor, "to_local"):
        yield name, tensor
        return
    for each in inner()[0]:
        yield f"{name}.{each}", getattr(tensor, each)


def restore(
    optimizer: torch.optim.Optimizer, trained: Mapping[str, nn.Parameter], saved: Mapping[str, Tensor]
) -> None:
    """Give an optimiser that has taken no step the tensors of ``state_tensors``.

    A first step at rate 0, which changes no weight, makes them: only the optimiser knows of which kind.

    Raises:
        CheckpointError: when it keeps other tensors.
    """
    for p in trained.values():
        p.grad = torch.zeros_like(p)
    set_rate(optimizer, 0.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    own = state_tensors(optimizer, trained)
    if own.keys() != saved.keys():
        raise CheckpointError("the checkpoint was written with another optimizer")
    for name, tensor in own.items():
        tensor.copy_(saved[name])
