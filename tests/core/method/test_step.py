"""Equations 3 and 4: what gradient reaches which network, against an explicit surrogate in float64."""

from typing import Any
from unittest import mock

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dimo_core.backbone import at_rows, full
from dimo_core.draws import Draws, categorical
from dimo_core.generator import Rollout
from dimo_core.guidance import Constant, Ramp, guided
from dimo_core.method import logits, process
from dimo_core.method.denoiser import Denoiser
from dimo_core.method.dimo import Dimo, DimoObjective
from dimo_core.method.one_step import OneStep
from dimo_core.method.process import Remask, draw_remask
from dimo_core.method.weighting import WEIGHTS, weight_dmd, weight_elbo, weight_per_masked_token, weight_sum
from dimo_core.objective import Batch, Ingredients, Phase
from dimo_divergences import FKL, Jeffrey


class LiveShapes(TorchDispatchMode):
    """Within, notes the first size of every tensor that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = list[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.ndim > 1:
            self.rows.append(len(result))
        return result


B, L, V = 6, 4, 5
C = torch.tensor([0, 1, 1, 0, 1, 0])
DRAWS = Draws(seed=5, step=3, phase="p", total=B)


def objective(teacher: Any, *, beta: float = 0.3, scale: float = 1.7, **options: Any) -> DimoObjective:
    """Generator, auxiliary and teacher of different weights, in float64."""
    made = Dimo(**options).build(
        Ingredients(
            teacher=teacher,
            generator=OneStep(),
            auxiliary=Denoiser(label_smoothing=0.1),
            divergence=Jeffrey(beta=beta),
            guidance=Constant(scale=scale),
        )
    )
    s = made.step
    for seed, network in enumerate((s.p_phi, s.p_theta, s.p_psi)):
        network.double()
        generator = torch.Generator().manual_seed(seed)
        for p in network.parameters():
            p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64) / 2
    return made


def x_theta_of(made: DimoObjective, rolled: Rollout) -> Tensor:
    """What the step draws, at all sites at once."""
    return categorical(made.step.p_theta.head(rolled.hidden), rolled.u)


def grads(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def named(made: DimoObjective, kind: str) -> Phase:
    return next(phase for phase in made.phases() if phase.name == kind)


def scores(made: DimoObjective, remask: Remask, x_theta: Tensor) -> tuple[Tensor, Tensor]:
    """z_phi and z_psi at all sites, [B, L, V]: the reference that rows are compared with."""
    s = made.step
    x = x_theta.masked_fill(remask.masked, s.teacher.tokens.mask_id)
    ratio = remask.ratio
    with torch.no_grad():
        scale = s.guidance.at(ratio)
        z_phi = guided(s.teacher, s.p_phi, x, C, mask_ratio=ratio, scale=scale)(None) / s.teacher_temperature
        return z_phi, s.p_psi.head(s.p_psi(x, C, mask_ratio=ratio))


def expected_weight(name: str, remask: Remask, p_theta: Tensor, p_phi: Tensor) -> Tensor:
    """w at every site, by loops."""
    counts, masked = remask.counts, remask.masked
    w = torch.zeros(B, L, dtype=torch.float64)
    for b in range(B):
        sites = [i for i in range(L) if masked[b, i]]
        distance = sum((p_theta[b, i] - p_phi[b, i]).abs().mean() for i in sites) / len(sites)
        for i in sites:
            w[b, i] = {
                "sum": 1.0,
                "per_masked_token": 1 / int(counts[b]),
                "elbo": 1 / float(remask.ratio[b]),
                "dmd": 1 / float(distance),
            }[name]
    return w


@pytest.mark.parametrize("rollout", ["shared", "fresh"])
@pytest.mark.parametrize("weight", sorted(WEIGHTS))
@pytest.mark.parametrize("jacobian", ["auxiliary", "student"])
def test_the_generators_gradient_is_that_of_the_surrogate(
    tiny_teacher: Any, rollout: str, weight: str, jacobian: str
) -> None:
    made = objective(
        tiny_teacher,
        rollout=rollout,
        weight=weight,
        jacobian=jacobian,
        masking="bernoulli",
        teacher_temperature=0.8,
    )
    s = made.step
    rolled = s.p_theta.rollout(C, DRAWS)
    remask = draw_remask(L, "arccos", "bernoulli", DRAWS)
    z_phi, z_psi = scores(made, remask, x_theta_of(made, rolled))
    z_theta = s.p_theta.head(rolled.hidden)
    p, q, p_theta = (z.softmax(-1).detach() for z in (z_phi, z_psi, z_theta))
    u = -(1 - 0.3) * p / q + 0.3 * ((q / p).log() + 1)
    through = q if jacobian == "auxiliary" else p_theta
    grad_z = through * (u - (through * u).sum(-1, keepdim=True))
    w = expected_weight(weight, remask, p_theta, p)
    surrogate = (w[..., None] * grad_z * z_theta).sum() / B
    expected = torch.autograd.grad(surrogate, [p for p in s.p_theta.parameters() if p.requires_grad])

    made.phases()[0].accumulate(Batch(conditions=C), DRAWS)
    actual = [p.grad for p in s.p_theta.parameters() if p.requires_grad]
    assert len(expected) == len(actual) > 0
    for a, b in zip(expected, actual, strict=True):
        torch.testing.assert_close(b, a, atol=1e-12, rtol=1e-9)


def test_the_gradient_in_z_theta_is_w_grad_z_over_b_at_masked_sites_and_zero_elsewhere(
    tiny_teacher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = objective(tiny_teacher, beta=0.0, schedule="cosine")
    s = made.step
    rolled = s.p_theta.rollout(C, DRAWS)
    remask = draw_remask(L, "cosine", "exact", DRAWS)
    z_theta = s.p_theta.head(rolled.hidden).detach().requires_grad_()
    z_phi, z_psi = scores(made, remask, x_theta_of(made, rolled))
    s.p_theta.head = lambda hidden, rows=None: z_theta.flatten(0, 1)[rows]  # type: ignore[method-assign]
    monkeypatch.setattr(s.p_theta, "rollout", lambda c, draws: rolled)
    named(made, "dimo").accumulate(Batch(conditions=C), DRAWS)
    expected = (z_psi.softmax(-1) - z_phi.softmax(-1)) / B * remask.masked[..., None]
    assert z_theta.grad is not None
    torch.testing.assert_close(z_theta.grad, expected, atol=1e-15, rtol=1e-12)
    assert not z_theta.grad[~remask.masked].any()
    assert z_theta.grad[remask.masked].abs().sum(-1).min() > 0


def test_logits_at_rows_are_those_of_all_sites(tiny_teacher: Any) -> None:
    made = objective(tiny_teacher)
    s, remask = made.step, draw_remask(L, "arccos", "exact", DRAWS)
    rolled = s.p_theta.rollout(C, DRAWS)
    x = s.x_tilde_t(rolled, remask)
    assert torch.equal(x, x_theta_of(made, rolled).masked_fill(remask.masked, V))
    for at, every in zip(
        (s.phi(x, C, remask), s.psi(x, C, remask, learns=False), s.theta(rolled, remask, learns=True)),
        (*scores(made, remask, x_theta_of(made, rolled)), s.p_theta.head(rolled.hidden)),
        strict=True,
    ):
        actual = torch.cat([at(slice(3)), at(slice(3, None))])
        torch.testing.assert_close(actual, every.flatten(0, 1)[remask.rows], atol=1e-12, rtol=0)


def test_the_teachers_guidance_is_that_of_the_ratio_of_masked_tokens(tiny_teacher: Any) -> None:
    made = objective(tiny_teacher)
    s, remask = attrs.evolve(made.step, guidance=Ramp(scale=3.0)), draw_remask(L, "arccos", "exact", DRAWS)
    x = s.x_tilde_t(s.p_theta.rollout(C, DRAWS), remask)
    z_c, z_u = (
        s.p_phi.logits(x, c, mask_ratio=remask.ratio, rows=remask.rows)
        for c in (C, tiny_teacher.null_condition(C))
    )
    scale = (1 + 2 * (1 - remask.ratio))[remask.rows // L, None]
    torch.testing.assert_close(s.phi(x, C, remask)(slice(None)), z_u + scale * (z_c - z_u))


def test_chunks_have_as_many_rows_as_their_logits_may_be_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logits, "ELEMENTS", 10)

    def of(count: int, sites: int, columns: int) -> list[list[int]]:
        return [list(range(count))[k] for k in logits.chunks(count, sites, columns)]

    assert [[0, 1, 2], [3, 4, 5], [6]] == of(7, 7, 3)
    assert [[0, 1], [2, 3], [4]] == of(5, 7, 3)
    assert [[0], [1]] == of(2, 2, 11)
    assert [[0, 1, 2]] == of(3, 3, 3)


@given(sites=st.integers(1, 60), columns=st.integers(1, 30), elements=st.integers(1, 100), data=st.data())
def test_the_number_of_chunks_does_not_depend_on_what_is_masked(
    sites: int, columns: int, elements: int, data: st.DataObject
) -> None:
    """Processes that share a head call it equally often; every row is in one chunk, and none is too large."""
    count = data.draw(st.integers(0, sites))
    with mock.patch.object(logits, "ELEMENTS", elements):
        found = logits.chunks(count, sites, columns)
        assert len(found) == len(logits.chunks(sites, sites, columns))
    sizes = [len(range(count)[k]) for k in found]
    assert list(range(count)) == [row for k in found for row in range(count)[k]]
    assert max(sizes) <= max(1, elements // columns)


def test_the_head_sees_every_site_once(tiny_teacher: Any) -> None:
    """Of the generator: kept sites for their tokens, masked ones for gradient and tokens."""
    made, seen = objective(tiny_teacher), list[int]()
    head = made.step.p_theta.head
    made.step.p_theta.head = lambda h, rows=None: (seen.extend(rows.tolist()), head(h, rows))[1]  # type: ignore[method-assign]
    made.phases()[0].accumulate(Batch(conditions=C), DRAWS)
    assert list(range(B * L)) == sorted(seen)


@pytest.mark.parametrize("gathers", [True, False])
def test_a_chunk_leaves_its_own_rows_gradient_only(
    tiny_teacher: Any, gathers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a head gathers, nothing as large as all hidden states is made for a chunk."""
    hidden = torch.randn(2, 50, 3, requires_grad=True)
    rows, weight = torch.arange(0, 100, 2), torch.randn(3, 4)
    model = Denoiser().build(tiny_teacher)
    monkeypatch.setattr(type(model), "gathers", gathers)
    model.head = lambda h, rows=None: at_rows(h, rows) @ weight  # type: ignore[method-assign]
    z = logits.Logits(hidden, rows, model, learns=True)
    with LiveShapes() as made:
        for k in logits.chunks(50, 100, 2**24 // 10):
            z(k).square().sum().backward()
    assert gathers == (max(made.rows) <= 5)
    z.backward()
    expected = torch.autograd.grad((hidden.flatten(0, 1)[rows] @ weight).square().sum(), hidden)[0]
    torch.testing.assert_close(hidden.grad, expected)


@pytest.mark.parametrize("elements", [1, 3 * V])
@pytest.mark.parametrize("rollout", ["shared", "fresh"])
@pytest.mark.parametrize("weight", sorted(WEIGHTS))
@pytest.mark.parametrize("jacobian", ["auxiliary", "student"])
def test_rows_in_parts_give_the_gradients_and_logs_of_all_at_once(
    tiny_teacher: Any,
    monkeypatch: pytest.MonkeyPatch,
    elements: int,
    rollout: str,
    weight: str,
    jacobian: str,
) -> None:
    options = {"rollout": rollout, "weight": weight, "jacobian": jacobian, "masking": "bernoulli"}
    found = []
    for most in (2**24, elements):
        monkeypatch.setattr(logits, "ELEMENTS", most)
        made, logs = objective(tiny_teacher, **options), {}
        for phase in made.phases():
            logs |= phase.accumulate(Batch(conditions=C), DRAWS, watch=True)
        found.append((logs, grads(made.step.p_theta), grads(made.step.p_psi)))
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole, atol=1e-13, rtol=1e-9)


def test_the_generators_phase_leaves_no_gradient_in_auxiliary_and_teacher(tiny_teacher: Any) -> None:
    made = objective(tiny_teacher, rollout="fresh")
    named(made, "generator").accumulate(Batch(conditions=C), DRAWS)
    assert any(g.any() for g in grads(made.step.p_theta).values())
    assert {} == grads(made.step.p_psi)
    assert {} == grads(made.step.p_phi)


def test_the_auxiliarys_phase_leaves_no_gradient_in_generator_and_teacher(tiny_teacher: Any) -> None:
    made = objective(tiny_teacher, rollout="fresh")
    named(made, "auxiliary").accumulate(Batch(conditions=C), DRAWS)
    assert any(g.any() for g in grads(made.step.p_psi).values())
    assert {} == grads(made.step.p_theta)
    assert {} == grads(made.step.p_phi)


def test_a_shared_phase_gives_both_networks_their_own_gradients(tiny_teacher: Any) -> None:
    """The generator's equals that of a generator phase, the auxiliary's that of its loss on this rollout."""
    made, alone = objective(tiny_teacher), objective(tiny_teacher, rollout="fresh")
    (shared,) = made.phases()
    logs = shared.accumulate(Batch(conditions=C), DRAWS, watch=True)
    named(alone, "generator").accumulate(Batch(conditions=C), DRAWS)
    torch.testing.assert_close(grads(made.step.p_theta), grads(alone.step.p_theta), atol=1e-14, rtol=1e-9)
    named(alone, "auxiliary").accumulate(Batch(conditions=C), DRAWS)
    torch.testing.assert_close(grads(made.step.p_psi), grads(alone.step.p_psi), atol=1e-14, rtol=1e-9)
    assert {} == grads(made.step.p_phi)
    assert {"auxiliary_loss", "divergence", "entropy_theta", "entropy_phi", "logit_scale"} <= logs.keys()
    assert all(not value.requires_grad for value in logs.values())


def test_the_auxiliarys_loss_is_the_mean_cross_entropy_over_masked_tokens(tiny_teacher: Any) -> None:
    made = objective(tiny_teacher, rollout="fresh", schedule="linear", masking="bernoulli")
    x_theta = x_theta_of(made, made.step.p_theta.rollout(C, DRAWS))
    remask = draw_remask(L, "linear", "bernoulli", DRAWS)
    log_q = scores(made, remask, x_theta)[1].log_softmax(-1)
    target = torch.nn.functional.one_hot(x_theta, V).double() * 0.9 + 0.1 / V
    expected = -(target * log_q).sum(-1)[remask.masked].mean()
    loss = named(made, "auxiliary").accumulate(Batch(conditions=C), DRAWS)["auxiliary_loss"]
    torch.testing.assert_close(loss, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("masking", ["exact", "bernoulli"])
@pytest.mark.parametrize("rollout", ["shared", "fresh"])
@pytest.mark.parametrize("weight", sorted(WEIGHTS))
def test_micro_batches_add_up_to_the_whole_batch(
    tiny_teacher: Any, masking: str, rollout: str, weight: str
) -> None:
    """Sizes 1, 2 and 3: the counts of masked tokens that divide the losses are those of the global batch."""
    options = {"masking": masking, "rollout": rollout, "weight": weight}
    whole, parts = objective(tiny_teacher, **options), objective(tiny_teacher, **options)
    expected = {
        k: v
        for phase in whole.phases()
        for k, v in phase.accumulate(Batch(conditions=C), DRAWS, watch=True).items()
    }
    actual = dict.fromkeys(expected, torch.zeros((), dtype=torch.float64))
    for phase in parts.phases():
        for start, count in ((0, 1), (1, 2), (3, 3)):
            batch = Batch(conditions=C[start : start + count])
            for name, value in phase.accumulate(batch, DRAWS.slice(start, count), watch=True).items():
                actual[name] = actual[name] + value
    for module in ("p_theta", "p_psi"):
        a, b = grads(getattr(whole.step, module)), grads(getattr(parts.step, module))
        torch.testing.assert_close(b, a, atol=1e-13, rtol=1e-9)
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=1e-9)


def test_phases_are_shared_or_take_turns(tiny_teacher: Any) -> None:
    def names(**options: Any) -> list[tuple[str, tuple[str, ...]]]:
        return [(phase.name, tuple(phase.parts)) for phase in objective(tiny_teacher, **options).phases()]

    both, own = ("dimo", ("generator", "auxiliary")), ("auxiliary",)
    assert [both] == names()
    assert [both, ("auxiliary1", own)] == names(auxiliary_steps=2)
    assert [("generator", ("generator",)), ("auxiliary", own)] == names(rollout="fresh")
    assert [("generator", ("generator",)), ("auxiliary", own), ("auxiliary1", own)] == names(
        rollout="fresh", auxiliary_steps=2
    )


@pytest.mark.parametrize(("dropout", "score_dropout"), [(False, False), (True, False), (False, True)])
def test_dropout_is_on_only_where_it_is_asked_for(
    tiny_teacher: Any, dropout: bool, score_dropout: bool
) -> None:
    made = objective(tiny_teacher, rollout="fresh", dropout=dropout, score_dropout=score_dropout)
    s = made.step
    named(made, "generator").accumulate(Batch(conditions=C), DRAWS)
    modes = (s.p_phi.training, s.p_theta.training, s.p_psi.training)
    assert (score_dropout, dropout, score_dropout) == modes
    named(made, "auxiliary").accumulate(Batch(conditions=C), DRAWS)
    assert dropout == s.p_psi.training


@pytest.mark.parametrize("dropout", [False, True])
def test_with_a_shared_rollout_dropout_reaches_the_auxiliary(tiny_teacher: Any, dropout: bool) -> None:
    made = objective(tiny_teacher, rollout="shared", dropout=dropout, score_dropout=dropout)
    made.phases()[0].accumulate(Batch(conditions=C), DRAWS)
    assert [dropout] * 3 == [p.training for p in (made.step.p_phi, made.step.p_theta, made.step.p_psi)]


@pytest.mark.parametrize(("dropout", "score_dropout"), [(True, False), (False, True)])
def test_one_pass_cannot_learn_with_dropout_and_score_without(dropout: bool, score_dropout: bool) -> None:
    with pytest.raises(ValueError, match=r"'dropout' and 'score_dropout' must be equal.*'rollout' fresh"):
        Dimo(rollout="shared", dropout=dropout, score_dropout=score_dropout)


def test_the_remask_is_the_same_from_any_slice() -> None:
    whole = draw_remask(L, "arccos", "bernoulli", DRAWS)
    part = draw_remask(L, "arccos", "bernoulli", DRAWS.slice(2, 3))
    torch.testing.assert_close(part.masked, whole.masked[2:5])
    torch.testing.assert_close(part.counts, whole.counts[2:5])
    torch.testing.assert_close(part.ratio, whole.ratio[2:5])


def test_rows_are_the_masked_sites() -> None:
    remask = draw_remask(L, "square", "exact", DRAWS)
    sites = [(b, i) for b in range(B) for i in range(L) if remask.masked[b, i]]
    assert [b * L + i for b, i in sites] == remask.rows.tolist()
    assert process.masked_count(remask.ratio, L).tolist() == remask.counts.tolist()


def test_half_precision_logits_are_scored_in_fp32() -> None:
    assert torch.float32 == full(torch.zeros(2, 3, dtype=torch.bfloat16)).dtype
    assert torch.float64 == full(torch.zeros(2, 3, dtype=torch.float64)).dtype


COUNTS = torch.tensor([2, 1, 3])
MASKED = Remask(
    ratio=torch.tensor([0.25, 0.5, 1.0]),
    counts=COUNTS,
    masked=torch.ones(3, 3, dtype=torch.bool),
    rows=torch.arange(9),
    kept=torch.arange(0),
    total=9,
)


DISTANCE = torch.tensor([0.25, 0.0, 0.5], dtype=torch.float64)


def unneeded() -> Tensor:
    raise AssertionError("a pass over all logits for nothing")


def test_weight_sum_is_one() -> None:
    assert [1.0] * 3 == weight_sum(MASKED, unneeded).tolist()


def test_weight_per_masked_token_gives_every_sample_a_total_of_one() -> None:
    torch.testing.assert_close(weight_per_masked_token(MASKED, unneeded) * COUNTS, torch.ones(3).double())


def test_weight_elbo_is_one_over_the_mask_ratio() -> None:
    assert [4.0, 2.0, 1.0] == weight_elbo(MASKED, unneeded).tolist()


def test_weight_dmd_is_one_over_the_distance_and_finite_where_generator_and_teacher_agree() -> None:
    assert [4.0, 1e8, 2.0] == pytest.approx(weight_dmd(MASKED, lambda: DISTANCE).tolist(), rel=1e-12)


def test_a_missing_ingredient_is_named_before_anything_is_built(tiny_teacher: Any) -> None:
    whole = Ingredients(
        teacher=tiny_teacher,
        generator=OneStep(),
        auxiliary=Denoiser(),
        divergence=FKL(),
        guidance=Constant(),
    )
    for name in ("generator", "auxiliary", "divergence", "guidance"):
        with pytest.raises(Exception, match="needs a generator, an auxiliary, a divergence and a guidance"):
            Dimo().build(attrs.evolve(whole, **{name: None}))


def test_a_scored_mask_token_gets_a_gradient_too(tiny_teacher: Any) -> None:
    """mask_logit: keep. The extra column may be drawn, is decided then, and has its own gradient."""
    made = objective(attrs.evolve(tiny_teacher, keep=True))
    made.phases()[0].accumulate(Batch(conditions=C), DRAWS)
    bias = made.step.p_theta.backbone.out.bias
    assert bias.shape == (V + 1,)
    assert bias.grad[V] != 0
