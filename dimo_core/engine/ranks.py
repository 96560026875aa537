"""The processes that do one job together, as ``torchrun`` starts them: ``Ranks``.

Each does its share of the rows of every batch. Trained weights are distributed tensors of torch's FSDP over a
mesh of replicas x shards, so that plain replication is the mesh with one shard. Draws are keyed by global row
(:mod:`dimo_core.draws`), and gradients, losses and counts are sums, never means of means: any number of
processes takes the same steps, but for rounding.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dimo_core.backbone import Backbone, blocks
from dimo_core.device import widest
from dimo_core.errors import UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.weights import whole

if TYPE_CHECKING:  # what takes as long to import as torch itself, and one process does not need
    from torch.distributed.device_mesh import DeviceMesh

T = TypeVar("T")

ENTRIES = ("embed", "head")
"""Methods of networks that use weights, besides ``forward``."""


@attrs.frozen(kw_only=True)
class Ranks:
    """This process among those that do the same work; alone by default.

    Attributes:
        rank: Its number, from 0.
        size: How many there are.
        mesh: Replicas x shards of the trained weights; None for one process.
    """

    rank: int = 0
    size: int = 1
    mesh: "DeviceMesh | None" = attrs.field(default=None, eq=False)

    @property
    def leads(self) -> bool:
        """Whether this one writes and logs for all."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Which of ``count`` rows are those of this process.

        Raises:
            UsageError: when they cannot be divided evenly.
        """
        if count % self.size:
            raise UsageError(
                f"{count} samples cannot be divided evenly among {self.size} processes. Choose "
                f"train.batch_size / train.accumulate as a multiple of {self.size}."
            )
        size = count // self.size
        return range(self.rank * size, (self.rank + 1) * size)

    def spread(self, module: nn.Module) -> None:
        """Make the trained parameters of a module distributed tensors, in place; alone, nothing is done.

        Blocks (the members of a ``ModuleList``) are gathered one at a time. Frozen parameters stay as they
        are: they may be another network's too.
        """
        if self.mesh is None:
            return
        from torch.distributed.fsdp import fully_shard
        from torch.distributed.tensor import DTensor

        frozen = {p for p in module.parameters() if not p.requires_grad}
        parts, inner = () if isinstance(module, Backbone) else module.children(), {*blocks(module)}
        for each in (*inner, *parts, module):
            if any(p.requires_grad and not isinstance(p, DTensor) for p in each.parameters()):
                # What is no block stays whole from embedding to head, and till their backward passes.
                sharded = fully_shard(
                    each, mesh=self.mesh, ignored_params=frozen, reshard_after_forward=each in inner
                )
                # Each process brings its share of the sum over the global batch.
                sharded.set_gradient_divide_factor(1.0)
                sharded.set_force_sum_reduction_for_comms(True)
                _hook_entries(each)

    def total(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums of scalars over all processes, each of which has the same names."""
        if self.mesh is None or not values:
            return dict(values)
        device = next(iter(values.values())).device
        every = torch.stack([value.to(widest(device)) for value in values.values()])
        dist.all_reduce(every)
        return {name: each.to(old.dtype) for each, (name, old) in zip(every, values.items(), strict=True)}

    def any(self, said: bool) -> bool:
        """Whether any process says so; no device waits for it."""
        if self.mesh is None:
            return said
        flag = torch.tensor(int(said))
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    def agreed(self, do: Callable[[], T]) -> T:
        """What this process gets by doing something; the failure of one is that of all.

        Raises:
            Exception: of the first process that failed, marked as ``followed`` in the others.
        """
        if self.mesh is None:
            return do()
        failure: Exception | None = None
        try:
            found = do()
        except Exception as error:
            failure = error
        every: list[Any] = [None] * self.size
        mine = failure and (type(failure), str(failure))
        dist.all_gather_object(every, mine)
        if failure is not None and every.index(mine) == self.rank:  # who fails alike lets the first one tell
            raise failure
        for failed in filter(None, every):
            raise _again(*failed)
        return found

    def led(self, do: Callable[[], T]) -> T:
        """What the first process gets by doing something, plain data; its failure is that of all.

        Raises:
            Exception: as ``agreed``.
        """
        found: list[Any] = [self.agreed(lambda: do() if self.leads else None)]
        if self.mesh is not None:
            dist.broadcast_object_list(found)
        said: T = found[0]
        return said

    @contextmanager
    def folder(self, opened: AbstractContextManager[Folder]) -> Iterator[Folder]:
        """A folder that the first process opens, and writes to; what the others write there goes nowhere.

        Raises:
            Exception: as ``agreed``.
        """
        with ExitStack() as owning:
            mine: list[Folder] = []

            def take() -> Folder:
                mine.append(owning.enter_context(opened))
                return mine[0]

            taken = self.led(take)
            yield mine[0] if mine else attrs.evolve(taken, mute=True)

    def gathered(self, mine: Iterable[T]) -> list[T]:
        """What all processes make, that of the first one at the beginning.

        Raises:
            Exception: as ``agreed``.
        """
        own = self.agreed(lambda: [*mine])
        if self.mesh is None:
            return own
        every: list[list[T]] = [[]] * self.size
        dist.all_gather_object(every, own)
        return [one for each in every for one in each]

    def copied(self, module: T, skeleton: Callable[[], T]) -> T:
        """A module with all its weights on this process: a copy, or alone the module itself."""
        if self.mesh is None:
            return module
        assert isinstance(module, nn.Module)
        copy = skeleton()
        assert isinstance(copy, nn.Module)
        copy.to(next(module.parameters()).device)
        state = module.state_dict()
        with torch.no_grad():
            for name, tensor in copy.state_dict().items():
                tensor.copy_(whole(state[name]))
        return copy

    @contextmanager
    def gathering(self, module: nn.Module) -> Iterator[None]:
        """Within, every process has all weights of a module, and may use it as often as it likes."""
        if self.mesh is None:
            yield
            return
        from torch.distributed.fsdp import FSDPModule

        parts, inner = [each for each in module.modules() if isinstance(each, FSDPModule)], {*blocks(module)}
        for part in parts:
            part.unshard()
            part.set_reshard_after_forward(False, recurse=False)
        try:
            yield
        finally:
            for part in parts:
                part.set_reshard_after_forward(part in inner, recurse=False)
                part.reshard()


ALONE = Ranks()
"""One process."""


def _hook_entries(module: nn.Module) -> None:
    """Gather weights for ``ENTRIES``, too; within ``forward`` they are there, and would go at its end."""
    from torch.distributed.fsdp import register_fsdp_forward_method

    within: list[bool] = []
    module.register_forward_pre_hook(lambda *_: within.append(True))
    module.register_forward_hook(lambda *_: [within.pop(), None][1], always_call=True)
    for name in ENTRIES:
        if (entry := getattr(module, name, None)) is None:
            continue
        # A network may have a module in the place of the method.
        owner, method = (entry, "forward") if isinstance(entry, nn.Module) else (module, name)
        plain, gathering = getattr(owner, method), f"gathering_{name}"
        setattr(module, gathering, plain)
        register_fsdp_forward_method(module, gathering)
        setattr(owner, method, partial(_entered, within, plain, getattr(module, gathering)))


def _entered(
    within: list[bool], plain: Callable[..., T], gathering: Callable[..., T], *args: Any, **more: Any
) -> T:
    return (plain if within else gathering)(*args, **more)


def _again(kind: type[Exception], text: str) -> Exception:
    """The failure of another process."""
    failure = kind.__new__(kind)
    failure.args, vars(failure)["followed"] = (text,), True
    return failure
