"""The conformance kit passes the shipped plugins and names what is broken in others."""

import re
from typing import Any

import attrs
import numpy as np
import pytest
import torch

from dimo_core.conditions import Conditioning
from dimo_core.divergence import Divergence
from dimo_core.errors import CheckpointError, UsageError
from dimo_core.sampler import Sampled
from dimo_core.sources import ConditionStream
from dimo_core.suggestions import EvaluationPlan
from dimo_core.teacher import Teacher
from dimo_core.testing import (
    check_conditions,
    check_divergence,
    check_options,
    check_sampler,
    check_teacher,
)
from dimo_core.tokens import TokenSpace
from dimo_divergences import FKL, RKL, Jeffrey
from dimo_maskgit.codebook import PatchCodebook
from dimo_maskgit.teacher import MaskGit
from dimo_maskgit.transformer import Architecture, MaskTransformer
from dimo_prompts.labels import Labels
from dimo_samplers.maskgit import MaskGitSampler


def test_a_whole_teacher_passes(whole: Any) -> None:
    check_teacher(whole, [0, 1])


def test_the_shipped_teacher_passes() -> None:
    a = Architecture(width=16, depth=1, heads=2, mlp=16, dropout=0.1, grid=2, codes=6, classes=2)
    rows = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
    card = {"network": attrs.asdict(a), "classes": ["even", "odd"], "recipes": "small", "evaluation": None}
    made = MaskGit._assembled(card, MaskTransformer(a, a.codes), PatchCodebook(rows, 1, 2, 4))
    check_teacher(made, ["even", "odd", 0])
    check_sampler(MaskGitSampler(), made, ["even", 1])


def backbone_with(broken: Any, teacher: Any, name: str, method: Any) -> Any:
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


def ignoring(forward: Any) -> Any:
    return lambda self, x, c, *, mask_ratio: forward(self, x, torch.zeros_like(c), mask_ratio=mask_ratio)


def untrained(head: Any) -> Any:
    def apply(self: Any, hidden: Any, rows: Any = None) -> Any:
        hidden = hidden if rows is None else hidden.flatten(0, 1)[rows]
        return hidden @ self.out.weight.detach().T + self.out.bias

    return apply


def in_double(head: Any) -> Any:
    return lambda self, hidden, rows=None: head(self, hidden, rows).double()


def in_half(head: Any) -> Any:
    return lambda self, hidden, rows=None: head(self, hidden, rows).half()


def most_likely(embed: Any) -> Any:
    return lambda self, x: embed(self, x.argmax(-1) if x.is_floating_point() else x)


def of_four_sites(forward: Any) -> Any:
    def four(self: Any, x: Any, c: Any, *, mask_ratio: Any) -> Any:
        if x.shape[1] != 4:
            raise IndexError("index 4 is out of bounds")
        return forward(self, x, c, mask_ratio=mask_ratio)

    return four


def without_mix(forward: Any) -> Any:
    def skip(self: Any, x: Any, c: Any, *, mask_ratio: Any) -> Any:
        e = x if x.is_floating_point() else self.embed(x)
        return e + self.class_emb(c)[:, None]

    return skip


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
        ("forward", ignoring, "logits depend on the condition: the network ignores c"),
        ("forward", without_mix, "to every weight, and ['mix.0.weight'] gets none: use it"),
        ("head", untrained, "to every weight, and ['out.weight'] gets none: use it in the forward pass"),
        ("head", in_double, "of the dtype of the weights, which is no float64; they are torch.float64"),
        ("head", in_half, "which is no float64; they are torch.float16"),
        ("embed", most_likely, "embed of probabilities is differentiable in them: their mean embedding"),
        ("forward", remembering, "leaves nothing behind"),
        ("forward", mixing, "do not depend on the others of its batch"),
        ("head", rows_by_sample, "gives these flat rows"),
        ("head", without_mask_column, "one column a code, has shape [2, 4, 5], not [2, 4, 4]"),
        ("embed", rounded, "one-hot probabilities"),
    ],
)
def test_a_backbone_that_breaks_the_contract_is_named(
    broken: Any, whole: Any, name: str, method: Any, text: str
) -> None:
    with pytest.raises(AssertionError, match=re.escape(text)):
        check_teacher(backbone_with(broken, whole, name, method), [0, 1])


def beyond(self: Any, raw: Any) -> Any:
    try:
        return torch.tensor(list(raw))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError("no class") from error


@pytest.mark.parametrize(
    ("steps", "text"), [([4, 0], "'steps' must be >= 1: 0"), ("four", "'steps' must be <class 'int'>")]
)
def test_a_card_with_impossible_steps_is_refused_in_one_line(steps: Any, text: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(f"there, section 'evaluation': {text}")) as caught:
        EvaluationPlan.of_card({"metrics": [], "best": "", "steps": steps}, "there")
    assert len(str(caught.value)) < 120


def plan(**fields: Any) -> EvaluationPlan:
    return EvaluationPlan(**{"metrics": (), "best": "fid", **fields})


@pytest.mark.parametrize(
    ("methods", "text"),
    [
        ({"capabilities": frozenset()}, "without the capability 'guidance', null_condition refuses"),
        ({"encode_conditions": lambda self, raw: torch.zeros(1)}, "one row for each raw condition"),
        ({"frozen_parameters": lambda self: ("nothing",)}, "'nothing' is none"),
        ({"null_condition": lambda self, c: c.float()}, "structure, shapes and dtypes"),
        (
            {"null_condition": Teacher.null_condition},
            "the capability 'guidance' comes with null_condition(c)",
        ),
        ({"encode_conditions": lambda self, raw: np.array(list(raw))}, "a ndarray is none: use torch.tensor"),
        ({"encode_conditions": lambda self, raw: {}}, "gives a tensor at least, whose rows are the samples"),
        (
            {"encode_conditions": lambda self, raw: torch.tensor([{0: 0, 1: 1}[label] for label in raw])},
            "raises UsageError, as for all that it does not know, not KeyError",
        ),
        ({"encode_conditions": beyond}, "encode_conditions([2]) raises UsageError"),
        (
            {"capabilities": frozenset({"guidance", "decodes"})},
            "capabilities are among guidance, decode, encode, create, save; decodes is none",
        ),
        (
            {"capabilities": frozenset({"guidance", "create"})},
            "the capability 'create' comes with an attrs class pretraining_options",
        ),
        (
            {"tokens": property(lambda self: TokenSpace(length=4, codes=5, mask_id=2))},
            "codes that tokens forbids have logits of -inf: end the head with tokens.restrict(z, rows)",
        ),
        (
            {"tokens": property(lambda self: TokenSpace(length=4, codes=5, mask_id=9))},
            "sites with ids 0 .. 9, the mask id being 9, not IndexError",
        ),
        ({"recipes": lambda self: {"a": {"divergence": "no-such"}}}, "unknown divergence 'no-such'"),
        ({"recipes": lambda self: {"a": {"train": {"stepz": 3}}}}, "train.stepz in preset 'a' of teacher"),
        ({"evaluation": lambda self: plan(metrics="no-such")}, "names a metric that exists (unknown metric"),
        ({"evaluation": lambda self: plan(sampler="no-such")}, "names a sampler that exists (unknown"),
        ({"evaluation": lambda self: plan(metrics="composition", best="")}, "with metrics names one as best"),
        (
            {"evaluation": lambda self: plan(metrics="composition", best="overall")},
            "best is 'overall', of which smaller is better, as the metric says",
        ),
        (
            {"evaluation": lambda self: plan(conditions={"name": "labels", "klasses": 3})},
            "names a conditions that exists (",
        ),
    ],
)
def test_a_teacher_that_breaks_the_contract_is_named(
    broken: Any, whole: Any, methods: dict[str, Any], text: str
) -> None:
    with pytest.raises(AssertionError, match=re.escape(text)):
        check_teacher(broken(whole, **methods), [0, 1])


def test_a_network_whose_length_is_another_is_named_with_the_place_of_the_error(
    broken: Any, whole: Any
) -> None:
    class Longer(type(whole)):  # type: ignore[misc]
        """A teacher.

        Attributes:
            seed: Seed of the weights.
            keep: Whether the mask token is scored.
        """

        @property
        def tokens(self) -> TokenSpace:
            return TokenSpace(length=5, codes=5, mask_id=5)

    longer = backbone_with(broken, attrs.frozen(kw_only=True)(Longer)(), "forward", of_four_sites)
    text = (
        r"takes tokens of L = tokens.length = 5 sites .* not IndexError: .* \(test_checks.py:\d+, in of_four"
    )
    with pytest.raises(AssertionError, match=text):
        check_teacher(longer, [0, 1])


def test_a_teacher_that_does_not_share_is_named(tiny_teacher: Any) -> None:
    with pytest.raises(AssertionError, match="shares the tensor"):
        check_teacher(tiny_teacher, [0, 1])


def test_a_skeleton_that_allocates_is_named(broken: Any, whole: Any) -> None:
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
def test_a_divergence_that_breaks_the_contract_is_named(
    broken: Any, methods: dict[str, Any], text: str
) -> None:
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
def test_conditions_that_break_the_contract_are_named(
    broken: Any, whole: Any, methods: dict[str, Any], text: str
) -> None:
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
            "global random numbers",
        ),
    ],
)
def test_a_sampler_that_breaks_the_contract_is_named(broken: Any, whole: Any, sample: Any, text: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(text)):
        check_sampler(broken(MaskGitSampler(), sample=sample), whole, [0, 1])


def test_options_must_be_a_frozen_attrs_class() -> None:
    with pytest.raises(AssertionError, match="is a frozen attrs class"):
        check_options(object())

    @attrs.define(kw_only=True)
    class Loose:
        """A plugin.

        Attributes:
            a: A number.
        """

        a: int = 0

    with pytest.raises(AssertionError, match="is frozen"):
        check_options(Loose())


def test_an_option_without_help_is_named() -> None:
    @attrs.frozen(kw_only=True)
    class Bare:
        """A plugin."""

        a: int = 0

    with pytest.raises(AssertionError, match=r"Bare describes option a in its 'Attributes:' section"):
        check_options(Bare())
