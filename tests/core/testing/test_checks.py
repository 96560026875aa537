"""The conformance kit passes the shipped plugins and names what is broken in others."""

import re
from typing import Any

import attrs
import pytest
import torch

from dimo_core.conditions import Conditioning
from dimo_core.divergence import Divergence
from dimo_core.sampler import Sampled
from dimo_core.sources import ConditionStream
from dimo_core.testing import (
    check_conditions,
    check_divergence,
    check_options,
    check_sampler,
    check_teacher,
)
from dimo_divergences import FKL, RKL, Jeffrey
from dimo_maskgit.codebook import PatchCodebook
from dimo_maskgit.teacher import MaskGit
from dimo_maskgit.transformer import Architecture, MaskTransformer
from dimo_prompts.labels import Labels
from dimo_samplers.maskgit import MaskGitSampler


def broken(plugin: Any, **methods: Any) -> Any:
    """The same plugin, some of its methods replaced."""
    cls = type(plugin)
    worse = attrs.frozen(kw_only=True, slots=False)(
        type(cls.__name__, (cls,), {"__doc__": cls.__doc__, **methods})
    )
    return worse(**{field.name: getattr(plugin, field.name) for field in attrs.fields(cls)})


def sharing(teacher: Any) -> Any:
    """The tiny teacher with a real ``share=True``."""
    first: list[Any] = []

    def network(self: Any, *, share: bool = False) -> Any:
        made = type(teacher).network(self)
        if share:
            first.append(made)
            for name, p in first[0].named_parameters():
                owner, _, leaf = name.rpartition(".")
                setattr(made.get_submodule(owner), leaf, p)
        return made

    return broken(teacher, network=network)


@pytest.fixture
def whole(tiny_teacher: Any) -> Any:
    return sharing(tiny_teacher)


def test_a_whole_teacher_passes(whole: Any) -> None:
    check_teacher(whole, [0, 1])


def test_the_shipped_teacher_passes() -> None:
    a = Architecture(width=16, depth=1, heads=2, mlp=16, dropout=0.1, grid=2, codes=6, classes=2)
    rows = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
    card = {"network": attrs.asdict(a), "classes": ["even", "odd"], "recipes": "small", "evaluation": None}
    made = MaskGit._assembled(card, MaskTransformer(a, a.codes), PatchCodebook(rows, 1, 2, 4))
    check_teacher(made, ["even", "odd", 0])
    check_sampler(MaskGitSampler(), made, ["even", 1])


def backbone_with(teacher: Any, name: str, method: Any) -> Any:
    plain = type(teacher).network

    def network(self: Any, *, share: bool = False) -> Any:
        made = plain(self, share=share)
        cls = type(made)
        made.__class__ = type(cls.__name__, (cls,), {name: method(getattr(cls, name))})
        return made

    return broken(teacher, network=network)


def detached(forward: Any) -> Any:
    return lambda self, x, c, *, mask_ratio: forward(self, x, c, mask_ratio=mask_ratio).detach()


def remembering(forward: Any) -> Any:
    def remember(self: Any, x: Any, c: Any, *, mask_ratio: Any) -> Any:
        self.calls = getattr(self, "calls", 0) + 1
        return forward(self, x, c, mask_ratio=mask_ratio) + (self.calls > 4)

    return remember


def mixing(forward: Any) -> Any:
    def mix(self: Any, x: Any, c: Any, *, mask_ratio: Any) -> Any:
        hidden = forward(self, x, c, mask_ratio=mask_ratio)
        return hidden + hidden.mean(0, keepdim=True)

    return mix


def rows_by_sample(head: Any) -> Any:
    return lambda self, hidden, rows=None: head(self, hidden, None if rows is None else rows.flip(0))


def without_mask_column(head: Any) -> Any:
    return lambda self, hidden, rows=None: head(self, hidden, rows)[..., :-1]


def rounded(embed: Any) -> Any:
    def round_(self: Any, x: Any) -> Any:
        return embed(self, x).round() if x.is_floating_point() else embed(self, x)

    return round_


def naming_nothing(targets: Any) -> Any:
    return lambda self: ("out", "nothing")


def spoiling(targets: Any) -> Any:
    def spoil(self: Any) -> Any:
        torch.nn.init.zeros_(self.out.weight)
        return targets(self)

    return spoil


@pytest.mark.parametrize(
    ("name", "method", "text"),
    [
        ("adapter_targets", naming_nothing, "'nothing' is none"),
        ("adapter_targets", spoiling, "adapter_targets changes no logits"),
        ("forward", detached, "gradients flow from logits to embeddings"),
        ("forward", remembering, "leaves nothing behind"),
        ("forward", mixing, "do not depend on the others of its batch"),
        ("head", rows_by_sample, "gives these flat rows"),
        ("head", without_mask_column, "one column a code, has shape [2, 4, 5], not [2, 4, 4]"),
        ("embed", rounded, "one-hot probabilities"),
    ],
)
def test_a_backbone_that_breaks_the_contract_is_named(whole: Any, name: str, method: Any, text: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(text)):
        check_teacher(backbone_with(whole, name, method), [0, 1])


@pytest.mark.parametrize(
    ("methods", "text"),
    [
        ({"capabilities": frozenset()}, "without the capability 'guidance', null_condition refuses"),
        ({"encode_conditions": lambda self, raw: torch.zeros(1)}, "one row for each raw condition"),
        ({"frozen_parameters": lambda self: ("nothing",)}, "'nothing' is none"),
        ({"__doc__": "No options are described."}, "describes option seed"),
        ({"null_condition": lambda self, c: c.float()}, "structure, shapes and dtypes"),
    ],
)
def test_a_teacher_that_breaks_the_contract_is_named(whole: Any, methods: dict[str, Any], text: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(text)):
        check_teacher(broken(whole, **methods), [0, 1])


def test_a_teacher_that_does_not_share_is_named(tiny_teacher: Any) -> None:
    with pytest.raises(AssertionError, match="shares the tensor"):
        check_teacher(tiny_teacher, [0, 1])


def test_a_skeleton_that_allocates_is_named(whole: Any) -> None:
    def skeleton(self: Any) -> Any:
        made = type(whole).skeleton(self)
        made.register_buffer("cache", torch.zeros(3, device="cpu"))
        return made

    eager = broken(whole, skeleton=skeleton)
    with pytest.raises(AssertionError, match="allocates nothing"):
        check_teacher(eager, [0, 1])


@pytest.mark.parametrize("divergence", [FKL(), RKL(), Jeffrey(beta=-0.2)])
def test_a_whole_divergence_passes(divergence: Divergence) -> None:
    check_divergence(divergence)


@pytest.mark.parametrize(
    ("methods", "text"),
    [
        ({"grad": lambda self, log_p, log_q: log_q.exp() - 2 * log_p.exp()}, "(eq. 4)"),
        ({"value": lambda self, log_p, log_q: (log_p.exp() * (log_p - log_q)).sum()}, "one number a token"),
        ({"value": lambda self, p, q: FKL.value(self, p, q) + 1}, "is 0 at p = q"),
        ({"grad": lambda self, log_p, log_q: (log_q.exp() - log_p.exp()).double()}, "keeps the dtype"),
    ],
)
def test_a_divergence_that_breaks_the_contract_is_named(methods: dict[str, Any], text: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(text)):
        check_divergence(broken(FKL(), **methods))


def test_whole_conditions_pass(whole: Any) -> None:
    check_conditions(Labels(), whole)


class Consumed(ConditionStream):
    def __init__(self) -> None:
        self.at = 0

    def read(self, start: int, count: int) -> list[int]:
        self.at += count
        return [(self.at + i) // 3 % 2 for i in range(count)]


def of_any_kind(self: Any, conditioning: Conditioning, *, seed: int) -> ConditionStream:
    return Labels().open(Conditioning(kind="label", classes=("a",)), seed=seed)


def consumed(self: Any, conditioning: Conditioning, *, seed: int) -> ConditionStream:
    return Consumed()


@pytest.mark.parametrize(
    ("methods", "text"),
    [
        ({"open": consumed}, "depends on the position alone"),
        ({"balanced": lambda self, conditioning, count: [0]}, "balanced gives 7 conditions, not 1"),
        ({"open": of_any_kind}, "refuses conditions of a kind"),
    ],
)
def test_conditions_that_break_the_contract_are_named(whole: Any, methods: dict[str, Any], text: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(text)):
        check_conditions(broken(Labels(), **methods), whole)


@pytest.mark.parametrize("sampler", [MaskGitSampler(), MaskGitSampler(order="random", counts="share")])
def test_a_whole_sampler_passes(whole: Any, sampler: MaskGitSampler) -> None:
    check_sampler(sampler, whole, [0, 1, 1])


def changed(**changes: Any) -> Any:
    def sample(self: Any, *args: Any, **options: Any) -> Sampled:
        done = MaskGitSampler.sample(self, *args, **options)
        return attrs.evolve(done, **{name: change(done) for name, change in changes.items()})

    return sample


def at_random(done: Sampled) -> torch.Tensor:
    return torch.randint(5, done.tokens.shape)


@pytest.mark.parametrize(
    ("sample", "text"),
    [
        (changed(tokens=lambda done: done.tokens.clamp(0, 0) + 5), "are codes 0 .. 4; [5] is none"),
        (changed(passes=lambda done: 1), "passes is 2"),
        (changed(tokens=lambda done: done.tokens.int()), "of dtype int64, not torch.int32"),
        (
            changed(tokens=lambda done: torch.randint(5, done.tokens.shape), trajectory=lambda done: ()),
            "same draws",
        ),
    ],
)
def test_a_sampler_that_breaks_the_contract_is_named(whole: Any, sample: Any, text: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(text)):
        check_sampler(broken(MaskGitSampler(), sample=sample), whole, [0, 1])


def test_options_must_be_a_frozen_attrs_class() -> None:
    with pytest.raises(AssertionError, match="is a frozen attrs class"):
        check_options(object())

    @attrs.define(kw_only=True)
    class Loose:
        """Attributes:
        a: A number.
        """

        a: int = 0

    with pytest.raises(AssertionError, match="is frozen"):
        check_options(Loose())
