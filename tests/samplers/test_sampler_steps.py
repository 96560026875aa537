"""Every sampler says which step it takes, for teachers whose network is told so."""

from typing import Any

import pytest
import torch

from dimo_core.backbone import Backbone
from dimo_core.draws import Draws
from dimo_core.guidance import Constant
from dimo_core.registry import Registry

SAMPLERS = Registry.discover().names("sampler")


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 4, 9])
def test_every_step_is_said_before_its_first_pass(tiny_teacher: Any, name: str, steps: int) -> None:
    said: list[tuple[int, int]] = []
    passes: list[int] = []

    class Counting(type(tiny_teacher)):  # type: ignore[misc]
        def at_step(self, network: Backbone, step: int, steps: int) -> Backbone:
            said.append((step, steps))
            return network

    teacher = Counting()
    network = teacher.network()
    network.register_forward_pre_hook(lambda _module, _args: passes.append(len(said)))
    options = {"cache": False} if name == "mdlm" else {}  # a pass that is used again belongs to two steps
    Registry.discover().load("sampler", name)(**options).sample(
        teacher,
        network,
        torch.tensor([0, 1, 1]),
        steps=steps,
        guidance=Constant(),
        draws=Draws(seed=0, total=3),
    )
    assert 0 not in passes
    assert set(range(1, len(said) + 1)) == set(passes), "each step has a pass, and each pass a step"
    (total,) = {of for _, of in said}
    assert list(range(len(said))) == [step for step, _ in said]
    assert len(said) <= total <= steps
