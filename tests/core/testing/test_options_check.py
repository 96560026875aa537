"""The kit finds options that cannot be read or that are shared, and says plainly what is given."""

import re
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch

from dimo_core.guidance import Constant
from dimo_core.method.denoiser import Denoiser
from dimo_core.method.dimo import Dimo
from dimo_core.method.one_step import OneStep
from dimo_core.objective import Ingredients
from dimo_core.testing import TinyTeacher, check_guidance, check_objective, check_options
from dimo_divergences import FKL


@attrs.frozen(kw_only=True)
class Shared:
    """Options.

    Attributes:
        w: Weights.
    """

    w: list = []  # noqa: RUF008


@attrs.frozen(kw_only=True)
class Unread:
    """Options.

    Attributes:
        a: A number.
    """

    a = attrs.field(default=1.0)


@attrs.frozen(kw_only=True)
class Dependent:
    """Options.

    Attributes:
        a: A number.
        b: Twice as much.
    """

    a: float = 1.0
    b: float = attrs.Factory(lambda self: 2 * self.a, takes_self=True)


@attrs.frozen(kw_only=True)
class OfTensors:
    """Options.

    Attributes:
        w: Weights.
    """

    w: torch.Tensor = attrs.field(factory=lambda: torch.ones(6))


@pytest.mark.parametrize(
    ("cls", "text"),
    [
        (Shared, "option w of Shared has a default of its own in each object"),
        (Unread, "option a of Unread has an annotation"),
        (Dependent, "the default of option b of Dependent depends on no other option"),
        (OfTensors, "OfTensors built again from its own options equals the first: options are plain values"),
    ],
)
def test_options_that_cannot_be_read_are_named(cls: Any, text: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(text)):
        check_options(cls())


def test_a_scale_that_is_a_number_is_named(broken: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError, match="at gives a tensor, one scale a sample, not float"):
        check_guidance(broken(Constant(), at=lambda self, ratio, progress=None: 1.5))


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        (lambda logs: None, "gives scalar tensors by name, not NoneType"),
        (lambda logs: {k: float(v) for k, v in logs.items()}, "is of float"),
    ],
)
def test_what_a_phase_returns_is_named(broken: Callable[..., Any], returned: Any, text: str) -> None:
    def build(self: Any, ingredients: Any) -> Any:
        made = Dimo.build(self, ingredients)
        phases = made.phases()
        for phase in phases:
            plain = phase.accumulate
            phase.accumulate = lambda *a, plain=plain, **k: returned(plain(*a, **k))
        made.phases = lambda: phases
        return made

    parts = Ingredients(
        teacher=TinyTeacher(),
        generator=OneStep(),
        auxiliary=Denoiser(),
        divergence=FKL(),
        guidance=Constant(),
    )
    with pytest.raises(AssertionError, match=re.escape(text)):
        check_objective(broken(Dimo(), build=build), parts, [0, 1, 1])
