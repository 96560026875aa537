"""Mistakes that an author planted, and that the kit did not find at first."""

import re
from collections.abc import Mapping
from typing import Any

import attrs
import pytest
import torch

from dimo_core.guidance import Constant
from dimo_core.metric import Metric, Samples
from dimo_core.sources import ConditionStream
from dimo_core.testing import (
    TinyTeacher,
    check_conditions,
    check_divergence,
    check_metric,
    check_options,
    check_sampler,
    check_teacher,
)
from dimo_divergences import FKL, RKL
from dimo_prompts.labels import Labels
from dimo_samplers.maskgit import MaskGitSampler

MASK = 5


def found(text: str) -> Any:
    return pytest.raises(AssertionError, match=re.escape(text))


@pytest.fixture
def with_forward(broken: Any, whole: Any) -> Any:
    """A teacher whose network has another forward pass, made from its own."""

    def make(change: Any) -> Any:
        def network(self: Any, *, share: bool = False) -> Any:
            made = type(whole).network(self, share=share)
            cls = type(made)

            def forward(own: Any, x: Any, c: Any, *, mask_ratio: Any) -> Any:
                return change(cls.forward, own, x, c, mask_ratio)

            made.__class__ = type(cls.__name__, (cls,), {"forward": forward})
            return made

        return broken(whole, network=network)

    return make


def in_place(forward: Any, own: Any, x: Any, c: Any, ratio: Any) -> Any:
    if not x.is_floating_point():
        x[x == MASK] = 0
    return forward(own, x, c, mask_ratio=ratio)


def seeded(forward: Any, own: Any, x: Any, c: Any, ratio: Any) -> Any:
    torch.manual_seed(0)
    return forward(own, x, c, mask_ratio=ratio)


def mean_ratio(forward: Any, own: Any, x: Any, c: Any, ratio: Any) -> Any:
    return forward(own, x, c, mask_ratio=ratio) * (1 + ratio.mean())


def divided(forward: Any, own: Any, x: Any, c: Any, ratio: Any) -> Any:
    return forward(own, x, c, mask_ratio=ratio) / ratio[:, None, None]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (in_place, "leaves what it is given as it is, and changes nothing in place: change a copy"),
        (seeded, "neither draws torch's global random numbers nor seeds them"),
        (mean_ratio, "hang on its own mask_ratio, from 1 to 0, and on no other's"),
        (divided, "logits are finite"),
    ],
)
def test_what_a_forward_pass_does_besides_is_found(with_forward: Any, change: Any, text: str) -> None:
    with found(text):
        check_teacher(with_forward(change), [0, 1])


@pytest.mark.parametrize(
    ("methods", "text"),
    [
        ({"null_condition": lambda self, c: c}, "null_condition gives another condition: guidance would do"),
        ({"null_condition": lambda self, c: c.fill_(2)}, "null_condition, decode, encode and preview of"),
        (
            {"encode_conditions": lambda self, raw: torch.tensor(raw.sort() or raw)},
            "encode_conditions leaves",
        ),
    ],
)
def test_what_a_teacher_does_to_conditions_is_found(
    broken: Any, whole: Any, methods: Mapping[str, Any], text: str
) -> None:
    with found(text):
        check_teacher(broken(whole, **methods), [1, 0])


def test_one_condition_is_too_few(whole: Any) -> None:
    with found("at least two raw conditions, and got 1"):
        check_teacher(whole, [0])


def test_the_place_of_an_error_is_the_authors_line(with_forward: Any) -> None:
    def wrong(forward: Any, own: Any, x: Any, c: Any, ratio: Any) -> Any:
        return torch.nn.functional.linear(torch.zeros(2, 3), torch.zeros(2, 2))

    with found("test_planted.py:"):
        check_teacher(with_forward(wrong), [0, 1])


def deaf(sample: Any, self: Any, teacher: Any, network: Any, c: Any, **how: Any) -> Any:
    return sample(self, teacher, network, torch.zeros_like(c), **how)


def unguided(sample: Any, self: Any, teacher: Any, network: Any, c: Any, **how: Any) -> Any:
    return sample(self, teacher, network, c, **{**how, "guidance": Constant(scale=1.0)})


def untold(sample: Any, self: Any, teacher: Any, network: Any, c: Any, **how: Any) -> Any:
    return attrs.evolve(sample(self, teacher, network, c, **how), trajectory=())


def uniform(sample: Any, self: Any, teacher: Any, network: Any, c: Any, **how: Any) -> Any:
    done = sample(self, teacher, network, c, **how)
    x = (how["draws"].uniform("any", teacher.tokens.length) * 5).long()
    return attrs.evolve(done, tokens=x, trajectory=(x,))


def redrawn(sample: Any, self: Any, teacher: Any, network: Any, c: Any, **how: Any) -> Any:
    done = sample(self, teacher, network, c, **how)
    return attrs.evolve(
        done, trajectory=tuple((x + 1) % 5 for x in done.trajectory[:-1]) + done.trajectory[-1:]
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (deaf, "asks the network for the conditions that it is given"),
        (unguided, "guides: another scale gives other samples"),
        (untold, "gives the tokens after each step where keep_trajectory is true"),
        (uniform, "draws what the network says"),
        (redrawn, "a site that has a code keeps it in all later steps"),
    ],
)
def test_samplers_that_do_not_sample_the_teacher_are_found(
    broken: Any, whole: Any, change: Any, text: str
) -> None:
    def sample(self: Any, teacher: Any, network: Any, c: Any, **how: Any) -> Any:
        return change(MaskGitSampler.sample, self, teacher, network, c, **how)

    with found(text):
        check_sampler(broken(MaskGitSampler(), sample=sample), whole, [0, 1])


@pytest.mark.parametrize(
    ("methods", "text"),
    [
        (
            {
                "value": lambda self, p, q: -FKL().value(p, q),
                "grad": lambda self, p, q: -FKL().grad(p, q),
                "student_grad": lambda self, p, q, w: -FKL().student_grad(p, q, w),
            },
            "is never negative; it is -",
        ),
        ({"value": lambda self, p, q: FKL().value(p, q).double()}, "keeps the dtype of its inputs: fp32"),
        (
            {"value": lambda self, p, q: (p.exp() * (p.exp().log() - q.exp().log())).sum(-1)},
            "finite where a code is forbidden to both",
        ),
    ],
)
def test_divergences_that_are_none_are_found(broken: Any, methods: Mapping[str, Any], text: str) -> None:
    with found(text):
        check_divergence(broken(FKL(), **methods))


def test_a_divergence_that_may_be_negative_says_so(broken: Any) -> None:
    own = {name: getattr(RKL, name) for name in ("value", "grad", "student_grad")}
    turned = {name: lambda self, *a, f=f: -f(RKL(), *a) for name, f in own.items()}
    check_divergence(broken(RKL(), **turned), signed=True)


@attrs.frozen(kw_only=True)
class Sorting(Metric):
    """A metric."""

    needs = frozenset({"tokens"})

    def compute(self, samples: Samples, reference: Any, teacher: Any) -> Mapping[str, float]:
        assert samples.tokens is not None
        samples.tokens.copy_(samples.tokens.sort(1).values)
        return {"sorted": 1.0}


@attrs.frozen(kw_only=True)
class Higher(Metric):
    """A metric."""

    better = {"a": "higher"}  # type: ignore[dict-item]  # noqa: RUF012
    needs = frozenset({"tokens"})

    def compute(self, samples: Samples, reference: Any, teacher: Any) -> Mapping[str, float]:
        return {"a": 1.0}


@attrs.frozen(kw_only=True)
class Silent(Metric):
    """A metric."""

    needs = frozenset({"tokens"})

    def compute(self, samples: Samples, reference: Any, teacher: Any) -> Mapping[str, float]:
        return {}


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        (Sorting(), "Sorting.compute leaves what it is given as it is"),
        (Higher(), "better of Higher is larger or smaller for each number; ['higher'] is neither"),
        (Silent(), "Silent.compute gives numbers by name, and it gave none"),
    ],
)
def test_metrics_that_mislead_are_found(metric: Metric, text: str) -> None:
    teacher = TinyTeacher()
    x = torch.randint(0, 4, (6, teacher.tokens.length), generator=torch.Generator().manual_seed(0))
    with found(text):
        check_metric(metric, Samples(conditions=(0,) * 6, tokens=x), teacher)


class InOrder(ConditionStream):
    """0, 1, 0, 1 ..., whatever the seed."""

    def read(self, start: int, count: int) -> list[int]:
        return [i % 2 for i in range(start, start + count)]


@pytest.mark.parametrize(
    ("methods", "text"),
    [
        (
            {"open": lambda self, conditioning, *, seed: InOrder()},
            "opened with another seed gives its conditions",
        ),
        ({"balanced": lambda self, conditioning, count: [0] * count}, "gives different conditions in turn"),
    ],
)
def test_sources_that_leave_out_their_seed_or_their_conditions_are_found(
    broken: Any, whole: Any, methods: Mapping[str, Any], text: str
) -> None:
    with found(text):
        check_conditions(broken(Labels(), **methods), whole)


def test_no_option_is_called_name() -> None:
    @attrs.frozen(kw_only=True)
    class Named:
        """A plugin.

        Attributes:
            name: Never reached: it is the plugin's own.
        """

        name: str = "x"

    with found("Named has no option 'name'"):
        check_options(Named())
