"""A generator of k steps: what one of one step is with k = 1, what stays decided, and what it learns from."""

import re
from typing import Any, get_args

import attrs
import pytest
import torch
from torch import Tensor

from dimo_core.conditions import Condition
from dimo_core.draws import Draws
from dimo_core.guidance import Constant
from dimo_core.method.denoiser import Denoiser
from dimo_core.method.dimo import Dimo
from dimo_core.method.few_step import FewStep, FewStepGenerator, decided_per_pass
from dimo_core.method.one_step import OneStep
from dimo_core.method.process import Schedule, mask_ratio
from dimo_core.objective import Batch, Ingredients
from dimo_divergences import FKL
from dimo_samplers.maskgit import MaskGitSampler

B, L, V, MASK = 6, 4, 5, 5
C = torch.tensor([0, 1, 1, 0, 1, 0])
DRAWS = Draws(seed=5, step=3, phase="p", total=B)


class Watched:
    """Notes what the backbone of a generator sees, pass by pass."""

    def __init__(self, generator: FewStepGenerator) -> None:
        self.states, self.ratios, own = list[Tensor](), list[Tensor](), generator.backbone.forward

        def forward(x: Tensor, c: Condition, *, mask_ratio: Tensor) -> Tensor:
            self.states.append(x)
            self.ratios.append(mask_ratio)
            return own(x, c, mask_ratio=mask_ratio)

        generator.backbone.forward = forward  # type: ignore[method-assign]


def built(teacher: Any, **options: Any) -> FewStepGenerator:
    made = FewStep(**options).build(teacher).eval()
    random = torch.Generator().manual_seed(0)
    for p in made.parameters():
        p.data = torch.randn(p.shape, generator=random)
    return made


def test_one_step_is_the_one_step_generator(tiny_teacher: Any) -> None:
    few, one = FewStep(steps=1).build(tiny_teacher), OneStep().build(tiny_teacher)
    assert torch.equal(few.sample(C, DRAWS), one.sample(C, DRAWS))
    a, b = few.rollout(C, DRAWS), one.rollout(C, DRAWS)
    assert a.decided is None
    for name in ("x_init", "hidden", "u"):
        assert torch.equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("order", ["random", "halton", "confidence"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_a_sample_takes_its_passes_and_keeps_what_it_decided(
    tiny_teacher: Any, steps: int, order: Any
) -> None:
    made = built(tiny_teacher, steps=steps, schedule="linear", order=order)
    watched = Watched(made)
    x = made.sample(C, DRAWS)
    assert steps == len(watched.states) == made.passes == made.options.passes
    assert 0 <= int(x.min()) <= int(x.max()) < V
    for i, (state, ratio) in enumerate(zip(watched.states, watched.ratios, strict=True)):
        if i == 0:
            continue
        masked = state == MASK
        assert {round((1 - i / steps) * L)} == set(masked.sum(1).tolist())
        assert torch.allclose(ratio, masked.float().mean(1))
        assert torch.equal(state[~masked], x[~masked])
        if i > 1:
            assert not (masked & (watched.states[i - 1] != MASK)).any()


def test_in_halton_order_a_pass_decides_sites_that_are_far_apart(tiny_teacher: Any) -> None:
    """Of four in a row two opposite ones, then the others; which come first is the sample's."""
    made = built(tiny_teacher, steps=2, schedule="linear", order="halton")
    watched = Watched(made)
    made.sample(torch.zeros(60, dtype=torch.long), Draws(seed=5, total=60))
    kept = {tuple(row) for row in (watched.states[1] != MASK).tolist()}
    assert {(True, False, True, False), (False, True, False, True)} == kept


KNOWN = {
    (16, 4): [3, 2, 4, 7],
    (16, 8): [1, 2, 1, 1, 2, 2, 2, 5],
    (256, 8): [20, 21, 22, 22, 25, 28, 36, 82],
    (4096, 2): [1365, 2731],
}
"""What four schedules decided before each pass had to decide something; the rest follows from r(t)."""


@pytest.mark.parametrize("length", [16, 256, 4096])
@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_passes_decide_what_the_schedule_says(length: int, steps: int) -> None:
    t = 1 - torch.arange(steps + 1, dtype=torch.float64) / steps
    masked = (mask_ratio(t, "arccos") * length).round().long()
    found = decided_per_pass(length, steps)
    assert found == (-masked.diff()).tolist()
    assert found == KNOWN.get((length, steps), found)


@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_each_pass_decides_a_site_at_least(schedule: Any) -> None:
    for length in range(1, 20):
        for steps in range(1, 30):
            found = decided_per_pass(length, steps, schedule)
            assert min(steps, length) == len(found)
            assert (1, length) == (min(1, *found, 2), sum(found))


def test_more_steps_than_sites_are_as_many_as_sites(tiny_teacher: Any) -> None:
    """Where the first pass decided none, x_init was forgotten."""
    many, four = (built(tiny_teacher, steps=k) for k in (9, L))
    watched = Watched(many)
    assert torch.equal(many.sample(C, DRAWS), four.sample(C, DRAWS))
    assert (9, 4, 4) == (many.steps, many.passes, len(watched.states))
    assert [3, 2, 1] == [int((x == MASK).sum(1).unique()) for x in watched.states[1:]]


@attrs.frozen(kw_only=True)
class ByPass(Draws):
    """Draws of a sampler, by pass in its phases, and of a generator, by pass in its streams, are the same."""

    def uniform(self, stream: str, *shape: int) -> Tensor:
        return fixed(stream + self.phase, 0, *shape)

    def gumbel(self, stream: str, *shape: int) -> Tensor:
        return -(-fixed(stream + self.phase, 1, *shape).log()).log()


def fixed(name: str, kind: int, *shape: int) -> Tensor:
    of_pass = re.search(r"\d+$", name)
    random = torch.Generator().manual_seed(2 * int(of_pass[0] if of_pass else 0) + kind)
    return torch.rand(B, *shape, generator=random, dtype=torch.float64)


@pytest.mark.parametrize("gumbel", [0.0, 3.0])
@pytest.mark.parametrize("steps", [2, 3, 4])
def test_from_masks_untrained_in_order_of_confidence_it_is_maskgits_sampler(
    tiny_teacher: Any, steps: int, gumbel: float
) -> None:
    sampler = MaskGitSampler(gumbel=gumbel)
    draws = ByPass(seed=0, total=B)
    expected = sampler.sample(
        tiny_teacher, tiny_teacher.network().eval(), C, steps=steps, guidance=Constant(), draws=draws
    )
    made = FewStep(steps=steps, r_init=1.0, sigma_init=0.0, order="confidence", gumbel=gumbel).build(
        tiny_teacher
    )
    assert torch.equal(made.eval().sample(C, draws), expected.tokens)


def test_confidence_is_that_of_training_at_any_temperature(tiny_teacher: Any) -> None:
    """At a low temperature all that is drawn is sure, and no order would be left."""
    made = built(tiny_teacher, steps=2, order="confidence", gumbel=0, temperature=1e-3)
    watched = Watched(made)
    made.sample(C, DRAWS)
    kept = watched.states[1] != MASK
    p = made.head(made.backbone(watched.states[0], C, mask_ratio=watched.ratios[0])).softmax(-1).amax(-1)
    assert (p.masked_fill(~kept, 2).amin(1) >= p.masked_fill(kept, -1).amax(1)).all()


@pytest.mark.parametrize("order", ["random", "halton", "confidence"])
def test_a_sample_hangs_on_its_own_row_alone(tiny_teacher: Any, order: Any) -> None:
    made = built(tiny_teacher, steps=3, order=order)
    whole, part = made.sample(C, DRAWS), made.sample(C[2:4], DRAWS.slice(2, 2))
    assert torch.equal(whole[2:4], part)


def test_a_rollout_stops_at_a_drawn_pass_that_all_processes_share(tiny_teacher: Any) -> None:
    made, seen = built(tiny_teacher, steps=3), set[int]()
    for step in range(24):
        draws = attrs.evolve(DRAWS, step=step)
        whole, part = made.rollout(C, draws), made.rollout(C[4:], draws.slice(4, 2))
        masked = (whole.x_init == MASK).sum(1) if whole.decided is not None else torch.full((B,), -1)
        seen.add(int(masked[0]))
        assert torch.equal(whole.x_init[4:], part.x_init)
        assert whole.hidden.requires_grad
        if whole.decided is not None:
            assert torch.equal(whole.decided, whole.x_init != MASK)
            rows = torch.arange(B * L)
            x = whole.x_theta(made.head(whole.hidden).flatten(0, 1), rows).view(B, L)
            assert torch.equal(x[whole.decided], whole.x_init[whole.decided])
    assert {-1, 3, 2} == seen  # round(r(2/3) 4) and round(r(1/3) 4) with arccos


def test_decided_sites_give_no_gradient_and_teach_the_auxiliary_their_token(
    tiny_teacher: Any,
) -> None:
    ingredients = Ingredients(
        teacher=tiny_teacher,
        generator=FewStep(steps=2, schedule="linear"),
        auxiliary=Denoiser(),
        divergence=FKL(),
        guidance=Constant(),
    )
    made = Dimo().build(ingredients)
    s, targets = made.step, []
    with torch.no_grad():
        for p in s.p_psi.parameters():
            p.add_(1.0 + p.square())
    learn = s.p_psi.learn
    s.p_psi.learn = lambda z, t: (targets.append(t), learn(z, t))[1]  # type: ignore[method-assign]
    draws = next(
        d
        for d in (attrs.evolve(DRAWS, step=i) for i in range(9))
        if s.p_theta.rollout(C, d).decided is not None
    )
    rollout = s.p_theta.rollout(C, draws)
    assert rollout.decided is not None
    kept = s.p_theta.rollout
    leaf = rollout.hidden.detach().requires_grad_()
    s.p_theta.rollout = lambda c, d: attrs.evolve(rollout, hidden=leaf)  # type: ignore[method-assign]
    made.phases()[0].accumulate(Batch(conditions=C), draws)
    s.p_theta.rollout = kept  # type: ignore[method-assign]
    assert leaf.grad is not None
    assert not leaf.grad[rollout.decided].any()
    assert leaf.grad[~rollout.decided].any()
    (one,) = targets
    certain = one.z_theta.isinf().sum(-1) == V - 1
    assert certain.any()
    assert not certain.all()
    assert torch.equal(one.z_theta[certain].argmax(-1), one.x_theta[certain])


def test_sampling_options_rebuild_it(tiny_teacher: Any) -> None:
    made = FewStep(steps=3, schedule="cosine", r_init=0.5, order="confidence", gumbel=0.5)
    made = made.build(tiny_teacher).eval()
    again = FewStep(**made.sampling()).build(tiny_teacher).eval()
    assert torch.equal(made.sample(C, DRAWS), again.sample(C, DRAWS))


@pytest.mark.parametrize(("shape", "grown"), [("linear", 0.5), ("exp", 1 - 0.6065306597126334), ("cos", 0.5)])
def test_sigma_init_grows_as_its_warm_up_says(shape: Any, grown: float) -> None:
    o = OneStep(sigma_init=0.4, sigma_warmup=10, sigma_shape=shape)
    assert o.sigma(0) == 0
    assert o.sigma(5) == pytest.approx(0.4 * grown)
    assert o.sigma(10**6) == pytest.approx(0.4)
    assert OneStep(sigma_init=0.4).sigma(0) == 0.4
