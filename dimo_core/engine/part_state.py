"""One trained part at work: optimiser, learning-rate schedule, clipping, moving average, and its state."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dimo_core.engine.optimizers import made, restore, set_rate, state_tensors
from dimo_core.errors import CheckpointError
from dimo_core.files.weights import assign, divided, here, whole
from dimo_core.objective import Optimisation, Part

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps for each parameter."""


def lr_factor(step: int, steps: int, o: Optimisation) -> float:
    """The learning rate at ``step`` of ``steps`` as a share of its peak: linear warm-up, then the decay.

    The first step after the warm-up has the peak, and the last of all, ``steps - 1``, has ``lr_end`` of it.
    """
    if step < o.warmup:
        return (step + 1) / o.warmup
    if o.decay == "constant":
        return 1.0
    falls = steps - 1 - o.warmup
    done = (step - o.warmup) / falls if falls > 0 else 1.0
    left = 1 - done if o.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
    return o.lr_end + (1 - o.lr_end) * left


def ema_rate(step: int, decay: float) -> float:
    """min(decay, (1 + k) / (10 + k)) at step k, so that early averages forget quickly."""
    return min(decay, (1 + step) / (10 + step))


def page_locked(like: Tensor) -> Tensor:
    """Memory of the host that a CUDA device copies to while the host goes on."""
    return torch.empty_like(like, pin_memory=True)


def decayed(module: nn.Module) -> set[nn.Parameter]:
    """The parameters that weight decay applies to, by the rule of ``Optimisation.weight_decay``.

    What a parameter is, the module that holds it says: names of modules around it say nothing.
    """
    weights, others = set[nn.Parameter](), set[nn.Parameter]()
    for owner in module.modules():
        norm = any("Norm" in cls.__name__ for cls in type(owner).__mro__)
        spared = norm or isinstance(owner, nn.Embedding | nn.EmbeddingBag)
        for name, p in owner.named_parameters(recurse=False):
            matrix = p.ndim > 1 and ("weight" in name or "kernel" in name)
            (weights if matrix and not spared else others).add(p)
    return weights - others


class PartState:
    """A part and everything that changes while it is trained.

    Args:
        name: The part's name, in errors and files.
        part: The part, its module on the training device.
    """

    def __init__(self, name: str, part: Part) -> None:
        self.name, self.module, self.options = name, part.module, part.optimisation
        self.trained = {n: p for n, p in part.module.named_parameters() if p.requires_grad}
        o, weights = self.options, decayed(part.module)
        matrices = [p for p in self.trained.values() if p in weights]
        others = [p for p in self.trained.values() if p not in weights]
        self.optimizer = made(matrices, others, o)
        on_cpu = o.ema_device == "cpu"
        self.average = {
            n: p.detach().to("cpu", copy=True) if on_cpu else p.detach().clone()
            for n, p in self.trained.items()
            if o.ema
        }
        # a - w (a - p) in one kernel for all: ascent along the weights p, with decay 1
        local = list(map(here, self.average.values()))
        fused = all(average.device.type in ("cpu", "cuda") for average in local)
        self._follower = (
            torch.optim.SGD(local, weight_decay=1.0, maximize=True, fused=fused) if local else None
        )
        self._later = on_cpu and any(p.device.type == "cuda" for p in self.trained.values())
        self._due: tuple[torch.cuda.Event, Tensor] | None = None

    def zero(self) -> None:
        """Forget the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def clip(self) -> Float[Tensor, ""]:
        """Clip the gradient; returns its norm before that."""
        parameters = list(self.trained.values())
        return whole(torch.nn.utils.clip_grad_norm_(parameters, self.options.clip or math.inf))

    def update(self, step: int, steps: int, blocked: Float[Tensor, ""]) -> None:
        """One optimiser step with the scheduled learning rate; where ``blocked`` is 1, nothing changes."""
        set_rate(self.optimizer, self.options.lr * lr_factor(step, steps, self.options))
        self._step(self.optimizer, blocked)

    def _step(self, optimizer: torch.optim.Optimizer, blocked: Float[Tensor, ""]) -> None:
        """A step of an optimiser, unless ``blocked`` is 1; no fused kernel makes the host wait for that."""
        if optimizer.defaults.get("fused"):
            optimizer.found_inf = blocked  # type: ignore[attr-defined]  # read by the kernel
        elif bool(blocked):
            return
        optimizer.step()

    @torch.no_grad()
    def follow(self, step: int, frozen: Bool[Tensor, ""]) -> None:
        """Move the average towards the weights, unless ``frozen``."""
        if self._follower is None:
            return
        self._settle()
        weight = torch.tensor(1 - ema_rate(step, self.options.ema), dtype=torch.float32)
        self._follower.param_groups[0]["lr"] = float(weight)
        averages: list[Tensor] = self._follower.param_groups[0]["params"]
        blocked = frozen.float()
        if self._later:
            # The host goes on while the weights are copied; what waits for them is the next step's average.
            for average, p in zip(averages, self.trained.values(), strict=True):
                average.grad = page_locked(average) if average.grad is None else average.grad
                average.grad.copy_(here(p.detach()), non_blocking=True)
            arrived, mark = torch.cuda.Event(), page_locked(torch.empty_like(blocked, device="cpu"))
            mark.copy_(blocked, non_blocking=True)
            arrived.record()
            self._due = arrived, mark
            return
        for average, p in zip(averages, self.trained.values(), strict=True):
            average.grad = here(p.detach()).to(average.device)
        self._step(self._follower, blocked.to(averages[0].device))

    def _settle(self) -> None:
        """Make the average's move that is due, if one is."""
        if self._follower is not None and self._due is not None:
            (arrived, blocked), self._due = self._due, None
            arrived.synchronize()
            self._step(self._follower, blocked)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, the module holds the averaged weights; afterwards, exactly the trained ones again."""
        if not self.average:
            yield
            return
        self._settle()
        trained, averages = ([here(t.detach()) for t in of.values()] for of in (self.trained, self.average))
        kept = [p.to(a.device, copy=True) for p, a in zip(trained, averages, strict=True)]
        torch._foreach_copy_(trained, averages)
        try:
            yield
        finally:
            torch._foreach_copy_(trained, kept)

    def state(self) -> dict[str, Mapping[str, Tensor]]:
        """All tensors to save, by file."""
        self._settle()
        files: dict[str, Mapping[str, Tensor]] = {self.name: self.module.state_dict()}
        files[f"{self.name}.optimizer"] = state_tensors(self.optimizer, self.trained)
        if self.average:
            files[f"{self.name}.average"] = self.average
        return files

    def wanted(self) -> dict[str, Mapping[str, Tensor]]:
        """What ``load`` takes: tensors that are divided among processes as those here."""
        moments = {f"{n}.{key}": p for n, p in self.trained.items() for key in MOMENTS[1:]}
        return {
            self.name: self.module.state_dict(),
            f"{self.name}.optimizer": moments,
            f"{self.name}.average": self.average,
        }

    def load(self, files: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take over what ``state`` gave.

        Raises:
            CheckpointError: when it belongs to another part.
        """
        averages = files.get(f"{self.name}.average", {})
        moments = files.get(f"{self.name}.optimizer", {})
        own = self.options.optimizer == "adamw"
        keys = {f"{n}.{key}" for n in self.trained for key in MOMENTS} if own else moments.keys()
        if averages.keys() != self.average.keys() or moments.keys() not in (keys, set()):
            raise CheckpointError(
                f"the checkpoint of part {self.name!r} was written by a run that trained or averaged other "
                "parameters; its options differ from those of this run"
            )
        assign(self.module, files.get(self.name, {}), f"the checkpoint of part {self.name!r}")
        if moments and not own:
            restore(self.optimizer, self.trained, moments)
        for n, p in self.trained.items() if moments and own else ():
            # Copies: what is read from a local file is that file, mapped.
            step, *others = (moments[f"{n}.{key}"] for key in MOMENTS)
            found = [step, *(divided(moment, p) for moment in others)]
            self.optimizer.state[p] = {
                key: moment.to(p.device, copy=True) for key, moment in zip(MOMENTS, found, strict=True)
            }
        self._due = None
        for n, average in self.average.items():
            average.copy_(divided(averages[n], average))
