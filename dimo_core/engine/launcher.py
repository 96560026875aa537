"""Processes that a launcher such as ``torchrun`` started: how many, where they meet, and on which device."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from warnings import catch_warnings, filterwarnings

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from dimo_core.device import find_device
from dimo_core.engine.ranks import ALONE, Ranks
from dimo_core.errors import UsageError

PATIENCE = timedelta(days=1)
"""A process waits so long for the others, which may be busy; of those that have ended the launcher knows."""


def launched() -> int:
    """How many processes a launcher started for this work; 1 without one."""
    size = os.environ.get("WORLD_SIZE", "")
    return int(size) if size.isdecimal() else 1


def _meeting() -> dict[str, Any]:
    """Where the processes find each other: not where those of before a restart by ``torchrun`` did.

    Its nodes count restarts each for itself, so of several nodes it must be told to do so (docs/scale.md).
    """
    store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
    one = os.environ.get("GROUP_WORLD_SIZE") == "1"
    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if one else "0"
    return {"store": PrefixStore(again, store), "rank": rank, "world_size": size}


def check_shards(shards: int, size: int) -> None:
    """Refuse a number of shards that does not divide the processes.

    Raises:
        UsageError: in that case.
    """
    if size % shards:
        raise UsageError(f"train.shards is {shards}, which does not divide the {size} processes.")


@contextmanager
def joined(device: str, shards: int = 1) -> Iterator[tuple[Ranks, torch.device]]:
    """This process among those that a launcher started, and its device.

    Args:
        device: Name of a device; with several processes ``auto`` and ``cuda`` are the one of ``LOCAL_RANK``.
        shards: Over how many processes trained weights are split.

    Raises:
        UsageError: when there is no such device, or the shards do not divide the processes.
    """
    size = launched()
    if size == 1:
        if shards > 1:
            raise UsageError(f"train.shards is {shards}, and there is one process. Start it with torchrun.")
        yield ALONE, find_device(device)
        return
    from torch.distributed.device_mesh import init_device_mesh

    check_shards(shards, size)
    local = int(os.environ.get("LOCAL_RANK", "0"))
    where = find_device(device)
    if where.type == "cuda" and where.index is None:
        where = find_device(f"cuda:{local}")
        torch.cuda.set_device(where)
    backend = "cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE, **_meeting())
    try:
        mesh = init_device_mesh(where.type, (size // shards, shards), mesh_dim_names=("replicas", "shards"))
        with catch_warnings():  # nothing here writes into what a block returns
            filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
            yield Ranks(rank=dist.get_rank(), size=size, mesh=mesh), where
    finally:
        dist.destroy_process_group()
