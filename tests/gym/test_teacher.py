"""The gym's teacher and data keep the contracts, and know what they say that they know."""

from typing import Any

import pytest
import torch

from dimo_core.errors import UsageError
from dimo_core.metric import Samples
from dimo_core.testing import check_options, check_sampler, check_teacher
from dimo_core.testing.expectations import require_extra
from dimo_gym.data import GymData
from dimo_gym.distances import compared, histogram_tv
from dimo_gym.joints import Kind
from dimo_gym.learning import state_weights
from dimo_gym.measuring import in_turn, random_order
from dimo_gym.metric import GymMetric
from dimo_gym.partial import places, states
from dimo_gym.teacher import EVEN, GymTeacher
from dimo_samplers.random_order import RandomOrderSampler

SMALL: dict[str, Any] = {"joint": "halves", "codes": 3, "width": 16}


@pytest.mark.parametrize("knows", ["exact", "learnt"])
def test_the_teacher_keeps_the_contract(knows: Any) -> None:
    teacher = GymTeacher(**SMALL, knows=knows, training=5)
    check_teacher(teacher, [0, 1, 1])
    if knows == "exact":
        check_sampler(RandomOrderSampler(), teacher, [0, 1, 1])


@pytest.mark.parametrize("joint", ["table", "markov", "ising", "halves", "aligned"])
def test_an_exact_teacher_that_decides_one_site_after_the_other_draws_the_joint(joint: Kind) -> None:
    teacher = GymTeacher(joint=joint) if joint != "ising" else GymTeacher(joint=joint, length=4)
    p, length = teacher.p(), teacher.tokens.length
    q = random_order(teacher, 50).q  # more steps than sites: each decides one, or none
    assert compared(p[0], q[0]).tv < 2 * EVEN * length
    assert teacher.network()._parameters.keys() == {"table"}


def test_logits_are_finite_for_noise_probabilities_and_what_cannot_be() -> None:
    teacher = GymTeacher(**SMALL)
    network, space = teacher.network(), teacher.tokens
    c = torch.zeros((space.codes + 1) ** space.length, dtype=torch.long)
    x = states(space.length, space.codes)
    ratio = torch.zeros(len(x))
    assert network.logits(x, c, mask_ratio=ratio).isfinite().all()
    e = network.embed(x)
    e = e + 0.3 * torch.randn(e.shape, generator=torch.Generator().manual_seed(0))
    assert network(e, c, mask_ratio=ratio).isfinite().all()
    half = torch.full((1, space.length, space.codes), 1 / space.codes)
    mixed = network(network.embed(half), c[:1], mask_ratio=ratio[:1])
    codes = x[(x < space.codes).all(1)]
    each = network(codes, c[: len(codes)], mask_ratio=ratio[: len(codes)])
    torch.testing.assert_close(mixed[0], each.mean(0))


def test_one_hot_embeddings_are_looked_up_or_averaged_alike() -> None:
    teacher = GymTeacher(**SMALL)
    network, x = teacher.network(), states(4, 3)
    c, ratio = torch.arange(len(x)) % 2, torch.zeros(len(x))
    e = network.embed(x)
    averaged = network(e.clone().requires_grad_(), c, mask_ratio=ratio)
    torch.testing.assert_close(averaged, network(e, c, mask_ratio=ratio))


@pytest.mark.parametrize("knows", ["exact", "learnt"])
def test_further_tokens_change_nothing_at_the_start_and_can_be_learnt_from(knows: Any) -> None:
    plain = GymTeacher(**SMALL, knows=knows, training=5)
    teacher = GymTeacher(**SMALL, knows=knows, training=5, extra=True)
    x = states(4, 3)
    c, ratio = torch.arange(len(x)) % 2, (x == 3).float().mean(1)
    network, expected = teacher.network(), plain.network().logits(x, c, mask_ratio=ratio)
    extra = torch.randn(len(x), 1, 4, generator=torch.Generator().manual_seed(3))
    for told in (None, extra):
        z = network.head(network(x, c, mask_ratio=ratio, extra=told))
        torch.testing.assert_close(z, expected, rtol=0, atol=0)
    assert not plain.network().takes_extra
    weights = [p for name, p in network.named_parameters() if name.startswith("further")]
    assert weights
    network(x, c, mask_ratio=ratio, extra=extra).square().sum().backward()
    assert all(bool(p.grad.any()) for p in weights)
    with torch.no_grad():
        for p in weights:
            p.normal_(generator=torch.Generator().manual_seed(4))
    require_extra(network, x, c, network.embed(x))


def test_a_learnt_teacher_comes_near_and_is_the_same_every_time() -> None:
    teachers = [GymTeacher(joint="ising", length=4, knows="learnt", width=32, training=n) for n in (0, 200)]
    far, near = (compared(t.p()[0], random_order(t, 50).q[0]).tv for t in teachers)
    assert near < 0.05 < 0.2 < far
    again = GymTeacher(joint="ising", length=4, knows="learnt", width=32, training=200)
    torch.testing.assert_close(
        again.network().state_dict(), teachers[1].network().state_dict(), rtol=0, atol=0
    )


def test_training_meets_every_number_of_masks_alike_and_nothing_impossible() -> None:
    teacher = GymTeacher(**SMALL)
    often, x = state_weights(teacher.p(), teacher.tokens)[1], states(4, 3)
    masks = (x == 3).sum(1)
    each = torch.stack([often[masks == n].sum() for n in range(5)])
    torch.testing.assert_close(each, torch.tensor([0, 1, 1, 1, 1]).double() / 4)
    assert often[places(torch.tensor([[0, 3, 0, 3]]), 4)] == 0  # codes that the second half never has


def test_data_are_draws_from_the_joint_of_the_same_options() -> None:
    data = GymData(joint="halves", codes=3, count=4000)
    check_options(data)
    examples, other = data.load("teacher"), data.load("reference")
    assert examples.tokens is not None
    assert other.tokens is not None
    assert not torch.equal(examples.tokens, other.tokens)
    first, second = examples.tokens[:, :2], examples.tokens[:, 2:]
    assert torch.equal(second, (first + examples.labels[:, None]) % 3)
    counts = places(first, 3).bincount()
    assert counts.min() > 4000 / 9 * 0.8
    with pytest.raises(UsageError, match="no split 'x'"):
        data.load("x")


def test_data_may_be_what_a_teacher_draws() -> None:
    options: dict[str, Any] = {"joint": "halves", "count": 20_000}
    teacher = GymTeacher(joint="halves", knows="learnt")
    examples = GymData(**options, drawn_by="learnt").load("teacher")
    assert examples.tokens is not None
    for c in range(2):
        at = places(examples.tokens[examples.labels == c], 4)
        drawn = at.bincount(minlength=256).double() / len(at)
        from_teacher = compared(in_turn(teacher).q[c], drawn).tv
        assert from_teacher < 2 * histogram_tv(in_turn(teacher).q[c], len(at))
        assert compared(teacher.p()[c], drawn).outside > 0  # which the joint never draws


def test_the_metric_judges_samples() -> None:
    teacher = GymTeacher(joint="halves", codes=2, length=2)
    tokens = torch.tensor([[0, 0], [1, 1], [0, 1], [0, 1]])
    found = GymMetric().compute(Samples(conditions=[0, 0, 0, 1], tokens=tokens), None, teacher)
    # first: 1/3 of 00, 11 and 01, where 1/2 of 00 and 11 are true; second: all 01, where 01 and 10 are true
    assert found["tv"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert found["outside"] == pytest.approx(1 / 6)
