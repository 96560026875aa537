"""Which device a run computes on."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from jaxtyping import Shaped
from torch import Tensor

from dimo_core.errors import UsageError
from dimo_core.settings import Precision


def available_devices() -> tuple[str, ...]:
    """What ``--device`` may be here, the fastest first: every CUDA device, ``mps``, ``cpu``."""
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return (*cuda, *mps, "cpu")


def find_device(name: str = "auto") -> torch.device:
    """The device of this name.

    Args:
        name: ``auto`` for the fastest (cuda, then mps, then cpu), or a torch device such as ``cpu`` or
            ``cuda:1``; ``cuda`` alone is torch's current CUDA device.

    Raises:
        UsageError: if torch knows no such device, or this machine has none.
    """
    there = available_devices()
    if name == "auto":
        return torch.device(there[0].partition(":")[0])
    known = {device.partition(":")[0] for device in there} | set(there)
    if name not in known:
        raise UsageError(
            f"device {name!r} is not available. This machine has: {', '.join(there)}. "
            f"Choose one of them, or 'auto' for the first."
        )
    return torch.device(name)


def device_name(device: torch.device) -> str:
    """A device with what the speed of it depends on."""
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"{device} ({named}, {torch.get_num_threads()} threads)"


def crowded(device: torch.device) -> str | None:
    """A warning where other processes take cores of a CPU that several threads compute on.

    Threads that wait for one another make a step many times as long there. None where it cannot be known.
    """
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):
        return None
    if device.type != "cpu" or threads == 1 or threads + load <= cores + 1:
        return None
    return (
        f"other processes were busy lately (a load of {load:.1f} on {cores} cores). If they go on, "
        f"{threads} threads wait for one another and a step may take many times as long: start with "
        "OMP_NUM_THREADS=1, or with OMP_WAIT_POLICY=PASSIVE"
    )


def transfer(tensor: Shaped[Tensor, "*shape"], device: torch.device | str) -> Shaped[Tensor, "*shape"]:
    """Move a tensor; to CUDA without making the host wait, from page-locked memory.

    Other devices may still be reading a temporary tensor after it is gone, so there the copy is waited for.
    """
    device = torch.device(device)
    if tensor.dtype == torch.float64 and widest(device) != torch.float64:
        tensor = tensor.float()
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type == "cuda")


def widest(device: torch.device) -> torch.dtype:
    """The widest real numbers that a device knows: Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


@contextmanager
def arithmetic(precision: Precision, device: torch.device) -> Iterator[None]:
    """Within, forward passes compute in this precision; afterwards as before.

    Args:
        precision: ``fp32`` leaves torch's settings alone, ``tf32`` lets CUDA round the inputs of products to
            TF32, ``bf16`` is autocast.
        device: Where they compute.
    """
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        if precision == "tf32":
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.allow_tf32 = True
        half = precision == "bf16"  # autocast knows not every device, and nothing asks it to
        with torch.autocast(device.type, dtype=torch.bfloat16) if half else nullcontext():
            yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def noted(precision: Precision) -> dict[str, str]:
    """For records of what was drawn: nothing for fp32, so that those of before are the same."""
    return {} if precision == "fp32" else {"precision": precision}
