"""What tests on a device share: engines of the embedded jobs, and draws that two devices have in common.

On a machine with a GPU the device is ``cuda``. ``DIMO_GPU_TESTS_ON=cpu pytest -m gpu -n 0`` rehearses: the
same bodies run on the CPU, which shows that they run, and nothing of a device.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from dimo_core.config.distil import resolve_job
from dimo_core.data.feeds import ConditionFeed
from dimo_core.draws import Draws, categorical
from dimo_core.engine import loop
from dimo_core.engine.loop import Engine
from dimo_core.files.folder import Folder
from dimo_core.method import dimo, step

CPU = torch.device("cpu")


@attrs.frozen(kw_only=True)
class HostDraws(Draws):
    """Draws made on the CPU and moved, so that both devices see the same numbers."""

    def uniform(self, stream: str, *shape: int) -> Tensor:
        return Draws.uniform(self.host(), stream, *shape).to(self.device)

    def normal(self, stream: str, *shape: int) -> Tensor:
        return Draws.normal(self.host(), stream, *shape).to(self.device)

    def integers(self, stream: str, high: int, *shape: int) -> Tensor:
        return Draws.integers(self.host(), stream, high, *shape).to(self.device)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where tests run: ``cuda``, but in a rehearsal."""
    return torch.device(os.environ.get("DIMO_GPU_TESTS_ON", "cuda"))


@pytest.fixture
def draws_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines draw on the CPU."""
    monkeypatch.setattr(loop, "Draws", HostDraws)


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[Tensor] | None], list[Tensor]]:
    """Makes steps remember the tokens that they draw, or takes those that another run drew.

    A number that is rounded otherwise gives another token now and then, and everything after it differs.
    """

    def use(drawn: Sequence[Tensor] | None) -> list[Tensor]:
        own: list[Tensor] = []

        def draw(z: Tensor, u: Tensor) -> Tensor:
            own.append(categorical(z, u))
            return own[-1] if drawn is None else drawn[len(own) - 1].to(z.device)

        for module in (step, dimo):
            monkeypatch.setattr(module, "categorical", draw)
        return own

    return use


def engine(teacher: str, preset: str, device: torch.device, *, double: bool = False, **given: Any) -> Engine:
    """The training of an embedded job at batch 4 in two micro-batches, guided, without dropout.

    Args:
        teacher: Its name.
        preset: Which choices.
        device: Where.
        double: Make all networks float64.
        given: Further sections of the job; ``train`` adds to what is said here.
    """
    train = {"batch_size": 4, "accumulate": 2, "steps": 100, "log_every": 100, **given.pop("train", {})}
    still = {"dropout": False, "score_dropout": False}
    guidance = {"name": "constant", "scale": 2.0}
    options = {"teacher": teacher, "guidance": guidance, "objective": still, "train": train, **given}
    job = resolve_job(options, preset=preset)
    job = attrs.evolve(job, teacher=job.teacher.on(device))
    objective = job.objective.build(job.ingredients())
    if double:
        for module in (*objective.frozen().values(), *(p.module for p in objective.parts().values())):
            module.double()
    stream = job.conditions.open(job.teacher.conditioning, seed=0)
    feed = ConditionFeed(stream=stream, teacher=job.teacher, device=device)
    return Engine(
        objective, {"conditions": feed}, job.train, folder=Folder("memory://unused"), seed=0, device=device
    )


def moments(made: Engine) -> Mapping[str, Tensor]:
    """By part, Adam's first moments in one piece: a mean of the gradients of all steps."""
    return {
        name: torch.cat(
            [state.optimizer.state[p]["exp_avg"].flatten().cpu().double() for p in state.trained.values()]
        )
        for name, state in made.states.items()
    }


def apart(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    """By part, the length of the difference as a share of what is expected."""
    return {name: float((found[name] - e).norm() / e.norm()) for name, e in expected.items()}


@contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """Within, it is an error that the host waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def engines() -> Any:
    """These functions, for modules that cannot import their neighbours."""

    class Engines:
        make = staticmethod(engine)
        moments = staticmethod(moments)
        apart = staticmethod(apart)
        no_waiting = staticmethod(no_waiting)

    return Engines
