"""``--dry-run``: what a run needs, found by one step on the meta device, where tensors have no storage."""

import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any
from unittest import mock

import attrs
import torch
import torch.nn.functional as F
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
from dimo_core.config.distil import Job
from dimo_core.draws import Draws
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


HALF = ("linear", "conv1d", "conv2d", "conv_transpose2d")
FULL = ("layer_norm", "group_norm", "softmax", "log_softmax", "cross_entropy")
"""Functions of ``torch.nn.functional`` that autocast computes in half and in full precision."""


def as_on_an_accelerator() -> AbstractContextManager[Any]:
    """Within, functions on the meta device keep what they keep on an accelerator.

    On meta, attention falls back to the plain formula, whose [B, heads, L, L] weights no accelerator stores,
    and autocast does nothing. The functions themselves are exchanged: a mode of torch's would end where a
    backward pass begins, in which checkpointed blocks are computed again.
    """
    made: dict[str, Any] = {name: _cast(getattr(F, name), half=name in HALF) for name in (*HALF, *FULL)}
    made["scaled_dot_product_attention"] = _cast(_fused(F.scaled_dot_product_attention), half=True)
    exchanged: AbstractContextManager[Any] = mock.patch.multiple(F, **made)
    return exchanged


def _cast(function: Callable[..., Any], half: bool) -> Callable[..., Any]:
    """The function on floating-point inputs of the precision that autocast gives it."""

    def cast(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        return value.to(torch.get_autocast_dtype("cpu") if half else torch.float32)

    def called(*args: Any, **kwargs: Any) -> Any:
        if torch.is_autocast_enabled("cpu"):
            args, kwargs = tuple(map(cast, args)), {name: cast(value) for name, value in kwargs.items()}
        return function(*args, **kwargs)

    return called


def _fused(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``scaled_dot_product_attention``, fused where it is asked for nothing special."""

    def attend(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        if attn_mask is not None or args or kwargs.get("enable_gqa"):
            return plain(query, key, value, attn_mask, *args, **kwargs)
        # Dropout's mask is not kept either: a fused kernel draws it again in the backward pass.
        options = {name: kwargs[name] for name in ("is_causal", "scale") if name in kwargs}
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        attended: Tensor = kernel(query, key, value, **options)[0]
        return attended

    return attend


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
        rows: Bytes by use.
    """

    parameters: Mapping[str, tuple[int, ...]]
    rows: Mapping[str, int]

    @property
    def total(self) -> int:
        """Bytes at the fullest moment of a step."""
        return sum(self.rows.values())


def plan_memory(job: Job) -> MemoryPlan:
    """Parameter counts and peak memory of a training step; nothing is allocated and no weight is read.

    Counted are the tensors of one process: weights, gradients, Adam's moments, averages, and what the
    phases' forward and backward passes keep alive where all tokens are masked. What the libraries themselves
    need comes on top.
    """
    with META:
        objective = job.objective.build(job.ingredients(skeleton=True))
    parts = objective.parts()
    modules = {**objective.frozen(), **{name: part.module for name, part in parts.items()}}
    every = {name: list(module.parameters()) for name, module in modules.items()}
    trained = {name: [p for p in own if p.requires_grad] for name, own in every.items()}
    rows = {f"weights of the {name}": _bytes(m.state_dict().values()) for name, m in modules.items()}
    rows["Adam's moments"] = 2 * sum(_bytes(trained[name]) for name in parts)
    rows["averages"] = sum(_bytes(trained[name]) for name, part in parts.items() if part.optimisation.ema)
    rows["activations and gradients"] = _step_peak(job, objective, list(modules.values()))
    counts = {name: tuple(sum(p.numel() for p in of[name]) for of in (every, trained)) for name in modules}
    return MemoryPlan(parameters=counts, rows=rows)


def _step_peak(job: Job, objective: Objective, modules: list[nn.Module]) -> int:
    """Bytes that one step makes, at its fullest moment."""
    t = job.train
    size = t.batch_size // t.accumulate
    raw = job.conditions.balanced(job.teacher.conditioning, size)
    tokens = None
    if job.data is not None:
        tokens = torch.zeros(size, job.teacher.tokens.length, dtype=torch.long, device=META)
    batch = Batch(conditions=conditions.to(job.teacher.condition_skeleton(raw), META), tokens=tokens)
    live = LiveTensors()
    for module in modules:
        live.ignore(module)
    with live, as_on_an_accelerator():
        for phase in objective.phases():
            draws = Fullest(seed=job.seed, phase=phase.name, total=t.batch_size, device=META)
            precision = torch.autocast("cpu", dtype=torch.bfloat16, enabled=t.precision == "bf16")
            # The second micro-batch meets the gradients of the first; further ones are like it.
            for start in range(0, min(t.batch_size, 2 * size), size):
                with precision:
                    phase.accumulate(batch, draws.slice(start, size), watch=True)
            for name in phase.parts:
                objective.parts()[name].module.zero_grad(set_to_none=True)
    return live.peak


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
    memory = RichTable("memory of one process", mib, title="memory at the fullest moment of a step")
    for name, size in (*plan.rows.items(), ("total", plan.total)):
        memory.add_row(name, f"{size / 2**20:,.1f}")
    console.print(counts)
    console.print(memory)
    for advice in job.teacher.advise(job.config):
        logger.warning(advice)
