"""``--dry-run``: what a run needs, found by one step on the meta device, where tensors have no storage."""

import weakref
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import attrs
import torch
import yaml
from jaxtyping import Float
from loguru import logger
from rich.console import Console
from rich.table import Column
from rich.table import Table as RichTable
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dimo_core import conditions
from dimo_core.backbone import blocks
from dimo_core.config.distil import Job
from dimo_core.draws import Draws
from dimo_core.engine.frozen import cast_frozen
from dimo_core.engine.launcher import check_shards, launched
from dimo_core.engine.optimizers import moments_bytes
from dimo_core.engine.ranks import Ranks
from dimo_core.jobs.imitation import as_on
from dimo_core.objective import Batch, Objective

META = torch.device("meta")


class LiveTensors(TorchDispatchMode):
    """Within, follows every tensor storage that operations make: bytes alive now, and at most."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = self.peak = 0
        self._seen: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and note its results."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.is_meta:
                self._note(leaf.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._seen:
            return
        self._seen[key] = weakref.ref(storage, partial(self._gone, key, size))
        self.alive += size
        self.peak = max(self.peak, self.alive)

    def _gone(self, key: int, size: int, _: object) -> None:
        del self._seen[key]
        self.alive -= size

    def ignore(self, module: nn.Module) -> None:
        """Do not count the tensors of a module that is there already."""
        storages = [tensor.untyped_storage() for tensor in (*module.parameters(), *module.buffers())]
        self._seen |= {id(storage): storage for storage in storages}


@attrs.frozen(kw_only=True)
class Fullest(Draws):
    """The draws of the step that needs most: t is 1, so that all is masked that ``ratio_bounds`` lets be."""

    def uniform(self, stream: str, *shape: int) -> Float[Tensor, "b ..."]:
        """Ones for ``t``."""
        drawn = Draws.uniform(self, stream, *shape)
        return torch.ones_like(drawn) if stream == "t" else drawn


@attrs.frozen(kw_only=True)
class MemoryPlan:
    """Parameters and bytes of one process.

    Attributes:
        parameters: Parameters of each network, and how many of them are trained.
        rows: Bytes by use, on the device.
        host: Bytes by use, on the CPU beside a device.
        processes: How many processes train together.
    """

    parameters: Mapping[str, tuple[int, ...]]
    rows: Mapping[str, int]
    host: Mapping[str, int]
    processes: int

    @property
    def total(self) -> int:
        """Bytes of the device at the fullest moment of a step."""
        return sum(self.rows.values())


def plan_memory(job: Job) -> MemoryPlan:
    """Parameter counts and peak memory of a training step; nothing is allocated and no weight is read.

    Counted are the tensors of one process: weights, gradients, moments, averages, and what the phases'
    forward and backward passes keep alive where all tokens are masked. What the libraries themselves need
    comes on top. The device is an accelerator, unless the job names the CPU. Processes are as many as a
    launcher started (``WORLD_SIZE``), or at least as many as there are shards.

    Raises:
        UsageError: when shards do not divide the processes, or these not a batch.
    """
    with META:
        objective = job.objective.build(job.ingredients(skeleton=True))
    cast_frozen(objective, job.train.frozen_dtype)
    ranks, shards = Ranks(size=max(launched(), job.train.shards)), job.train.shards
    check_shards(shards, ranks.size)
    parts = objective.parts()
    modules = {**objective.frozen(), **{name: part.module for name, part in parts.items()}}
    every = {name: list(module.parameters()) for name, module in modules.items()}
    trained = {name: [p for p in own if p.requires_grad] for name, own in every.items()}
    mine = {name: [divided_skeleton(p, shards) for p in own] for name, own in trained.items()}
    rows = {
        f"weights of the {name}": _bytes(m.state_dict().values()) - _bytes(trained[name]) + _bytes(mine[name])
        for name, m in modules.items()
    }
    base = max(_bytes(m.parameters()) - _bytes(_saved(m)) for m in modules.values())
    if base and not objective.frozen():  # else it is the teacher's network, which is counted
        rows["weights that adapters share"] = base
    rows["Adam's moments"] = sum(
        moments_bytes(p, part.optimisation) for name, part in parts.items() for p in mine[name]
    )
    host: dict[str, int] = {}
    rows["averages"] = 0
    for name, part in parts.items():
        if part.optimisation.ema and part.optimisation.ema_device == "cpu" and job.device != "cpu":
            # What is on its way there is as large.
            host["averages"] = host.get("averages", 0) + 2 * _bytes(mine[name])
        elif part.optimisation.ema:
            rows["averages"] += _bytes(mine[name])
    if ranks.size > 1:
        rows["gathered weights"] = sum(_gathered(part.module) for part in parts.values())
    rows["activations and gradients"] = _step_peak(job, objective, list(modules.values()), ranks)
    counts = {name: tuple(sum(p.numel() for p in of[name]) for of in (every, trained)) for name in modules}
    return MemoryPlan(parameters=counts, rows=rows, host=host, processes=ranks.size)


def divided_skeleton(tensor: Tensor, shards: int) -> Tensor:
    """The part that the first of several processes has of a tensor, which is divided along its first axis."""
    return torch.empty(-(-len(tensor) // shards), *tensor.shape[1:], dtype=tensor.dtype, device=META)


def _gathered(module: nn.Module) -> int:
    """Trained weights that are whole at a time: what is no block, and two blocks, used and fetched."""
    inner = [[p for p in block.parameters() if p.requires_grad] for block in blocks(module)]
    within = {p for block in inner for p in block}
    outer = [p for p in module.parameters() if p.requires_grad and p not in within]
    return _bytes(outer) + sum(sorted(map(_bytes, inner))[-2:])


def _step_peak(job: Job, objective: Objective, modules: list[nn.Module], ranks: Ranks) -> int:
    """Bytes that one step makes, at its fullest moment."""
    t = job.train
    size, own = t.batch_size // t.accumulate, len(ranks.share(t.batch_size // t.accumulate))
    raw = job.conditions.balanced(job.teacher.conditioning, own)
    tokens = None
    if job.data is not None:
        tokens = torch.zeros(own, job.teacher.tokens.length, dtype=torch.long, device=META)
    c, rows = conditions.to(job.teacher.condition_skeleton(raw), META), torch.arange(own, device="cpu")
    space = job.teacher.tokens
    valid = torch.ones(t.batch_size, space.length, dtype=torch.bool) if space.gives else None  # at most
    batch = Batch(conditions=c, tokens=tokens, rows=rows, valid=valid)
    live = LiveTensors()
    for module in modules:
        live.ignore(module)
    gradients: dict[Tensor, Tensor] = {}

    def divide(p: Tensor) -> None:
        if p not in gradients:
            gradients[p] = divided_skeleton(p, t.shards)
        p.grad = None

    for part in objective.parts().values():
        for p in part.module.parameters():
            if p.requires_grad and t.shards > 1:
                p.register_post_accumulate_grad_hook(divide)
    with live:
        for phase in objective.phases():
            draws = Fullest(seed=job.seed, phase=phase.name, total=t.batch_size, device=META)
            # The second micro-batch meets the gradients of the first; further ones are like it.
            for start in range(0, min(t.batch_size, 2 * size), size):
                precision = torch.autocast("cpu", dtype=torch.bfloat16, enabled=t.precision == "bf16")
                with precision, as_on(job.device):
                    phase.accumulate(batch, draws.slice(start, own), watch=True)
            gradients.clear()
            for name in phase.parts:
                objective.parts()[name].module.zero_grad(set_to_none=True)
    return live.peak


def _saved(module: nn.Module) -> list[Tensor]:
    """The parameters that are a module's own: what a checkpoint holds of it."""
    own = module.state_dict(keep_vars=True)
    return [p for p in own.values() if isinstance(p, nn.Parameter)]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def dry_run(job: Job) -> None:
    """Print what the job would do and need; nothing is allocated, read or written."""
    console = Console()
    console.print(yaml.safe_dump(dict(job.config), sort_keys=False, allow_unicode=True), markup=False)
    plan = plan_memory(job)
    every, trained, mib = (Column(name, justify="right") for name in ("parameters", "trained", "MiB"))
    counts = RichTable("network", every, trained, title="parameters")
    for name, numbers in plan.parameters.items():
        counts.add_row(name, *(f"{number:,}" for number in numbers))
    of = "one process" if plan.processes == 1 else f"one of {plan.processes} processes"
    memory = RichTable(f"memory of {of}", mib, title="memory at the fullest moment of a step")
    on_cpu = [(f"on the CPU: {name}", size) for name, size in plan.host.items()]
    for name, size in (*plan.rows.items(), ("total", plan.total), *on_cpu):
        memory.add_row(name, f"{size / 2**20:,.1f}")
    console.print(counts)
    console.print(memory)
    for advice in job.advice():
        logger.warning(advice)
