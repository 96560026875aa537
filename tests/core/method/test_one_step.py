"""The one-step generator and the auxiliary: copies of the teacher, their inputs and their samples."""

from typing import Any

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dimo_core.draws import Draws, categorical
from dimo_core.generator import filtered
from dimo_core.method.denoiser import Denoiser
from dimo_core.method.one_step import OneStep, OneStepGenerator
from dimo_core.method.process import perturb

C = torch.tensor([0, 1, 1])
DRAWS = Draws(seed=0, phase="p", total=3)


def built(teacher: Any, **options: Any) -> OneStepGenerator:
    return OneStep(**options).build(teacher).eval()


def test_generator_and_auxiliary_start_as_copies_of_the_teacher(tiny_teacher: Any) -> None:
    weights = tiny_teacher.network().state_dict()
    for module in (built(tiny_teacher), Denoiser().build(tiny_teacher)):
        own = module.backbone.state_dict()
        assert weights.keys() == own.keys()
        assert all(torch.equal(weights[name], own[name]) for name in weights)
    a, b = built(tiny_teacher), built(tiny_teacher)
    assert a.backbone.out.weight.data_ptr() != b.backbone.out.weight.data_ptr()


@pytest.mark.parametrize("options", [OneStep, Denoiser])
@pytest.mark.parametrize("train_embeddings", [False, True])
def test_the_teachers_frozen_parameters_stay_fixed_unless_asked(
    tiny_teacher: Any, options: Any, train_embeddings: bool
) -> None:
    module = options(train_embeddings=train_embeddings).build(tiny_teacher)
    fixed = {name for name, p in module.backbone.named_parameters() if not p.requires_grad}
    assert fixed == (set() if train_embeddings else {"tok_emb.weight"})


def test_a_skeleton_on_the_meta_device_allocates_nothing(tiny_teacher: Any) -> None:
    with torch.device("meta"):
        for options in (OneStep(), Denoiser()):
            module = options.build(tiny_teacher, skeleton=True)
            assert all(p.is_meta for p in module.parameters())


def test_the_input_is_the_perturbed_embedding_of_x_init(tiny_teacher: Any) -> None:
    g = built(tiny_teacher, r_init=0.5, sigma_init=0.3)
    x_init = g.initial_tokens(DRAWS)
    e = g.backbone.embed(x_init)
    seen: list[Any] = []
    g.backbone.register_forward_pre_hook(
        lambda _m, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
    )
    g(x_init, C, DRAWS)
    ((given_e, given_c), kwargs) = seen[0]
    torch.testing.assert_close(given_e, perturb(e, 0.3, DRAWS.normal("eps", *e.shape[1:])))
    assert not torch.equal(e, given_e)
    assert torch.equal(C, given_c)
    assert [0.5] * 3 == kwargs["mask_ratio"].tolist()
    assert [2] * 3 == (x_init == tiny_teacher.tokens.mask_id).sum(1).tolist()


def test_without_noise_the_input_is_the_embedding_itself(tiny_teacher: Any) -> None:
    g = built(tiny_teacher, sigma_init=0.0)
    x_init = g.initial_tokens(DRAWS)
    expected = g.backbone.logits(x_init, C, mask_ratio=torch.full((3,), 0.6))
    assert torch.equal(expected, g.head(g(x_init, C, DRAWS)))


def x_theta(g: OneStepGenerator) -> Tensor:
    """What training draws, at all sites."""
    rollout = g.rollout(C, DRAWS)
    return categorical(g.head(rollout.hidden), rollout.u)


def test_a_rollout_has_a_graph_to_hidden_and_none_to_what_its_tokens_are_drawn_with(
    tiny_teacher: Any,
) -> None:
    rollout = built(tiny_teacher).rollout(C, DRAWS)
    assert rollout.hidden.requires_grad
    assert not rollout.u.requires_grad
    assert torch.equal(DRAWS.uniform("x_theta", 4), rollout.u)


def test_training_draws_at_temperature_one_whatever_sampling_uses(tiny_teacher: Any) -> None:
    sharp = built(tiny_teacher, temperature=0.01, top_k=1, top_p=0.1)
    plain = built(tiny_teacher)
    assert torch.equal(x_theta(plain), x_theta(sharp))
    assert torch.equal(x_theta(plain), plain.sample(C, DRAWS))


def test_sampling_may_start_from_other_tokens_and_noise_than_training(tiny_teacher: Any) -> None:
    trained = built(tiny_teacher, r_init=0.25, sigma_init=0.4)
    other = built(tiny_teacher, r_init=0.75, sigma_init=0.1)
    g = built(tiny_teacher, r_init=0.25, sigma_init=0.4, sampling_r_init=0.75, sampling_sigma_init=0.1)
    assert torch.equal(x_theta(trained), x_theta(g))
    assert torch.equal(trained.rollout(C, DRAWS).hidden, g.rollout(C, DRAWS).hidden)
    assert torch.equal(other.sample(C, DRAWS), g.sample(C, DRAWS))
    seen: list[Any] = []
    g.backbone.register_forward_pre_hook(lambda _m, _a, kwargs: seen.append(kwargs), with_kwargs=True)
    g.sample(C, DRAWS)
    assert [0.75] * 3 == seen[0]["mask_ratio"].tolist()


def test_top_one_samples_are_the_likeliest_codes(tiny_teacher: Any) -> None:
    g = built(tiny_teacher, top_k=1)
    expected = g.head(g(g.initial_tokens(DRAWS), C, DRAWS)).argmax(-1)
    assert torch.equal(expected, g.sample(C, DRAWS))


def test_samples_do_not_depend_on_the_batch(tiny_teacher: Any) -> None:
    g = built(tiny_teacher)
    whole = g.sample(C, DRAWS)
    assert torch.equal(whole[1:], g.sample(C[1:], DRAWS.slice(1, 2)))


def test_sampling_options_rebuild_a_generator_that_samples_alike(tiny_teacher: Any) -> None:
    start = {"r_init": 0.25, "sigma_init": 0.4, "sampling_r_init": 0.5, "sampling_sigma_init": 0.2}
    g = built(tiny_teacher, **start, temperature=0.7, top_k=3, top_p=0.9)
    assert {*start, "temperature", "top_k", "top_p"} == set(g.sampling())
    again = OneStep(**g.sampling()).build(tiny_teacher).eval()
    assert torch.equal(g.sample(C, DRAWS), again.sample(C, DRAWS))


@pytest.mark.parametrize(
    "option", [{"r_init": 1.1}, {"sigma_init": -0.1}, {"temperature": 0.0}, {"top_k": -1}, {"top_p": 0.0}]
)
def test_options_out_of_range_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        OneStep(**option)


def test_the_auxiliarys_loss_is_a_sum_with_label_smoothing(tiny_teacher: Any) -> None:
    z = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.tensor([0, 1, 2, 3, 4, 0, 1])
    for smoothing in (0.0, 0.1):
        log_q, expected = z.log_softmax(-1), torch.zeros((), dtype=torch.float64)
        for row, code in enumerate(x.tolist()):
            expected -= (1 - smoothing) * log_q[row, code] + smoothing * log_q[row].mean()
        loss = Denoiser(label_smoothing=smoothing).build(tiny_teacher).loss(z, x)
        torch.testing.assert_close(loss, expected)


def test_the_auxiliarys_loss_equals_the_golden_values(tiny_teacher: Any, golden: Any) -> None:
    values = golden("auxiliary_loss")
    masked = values["mask"].flatten()
    z = values["aux_logits"].double().flatten(0, 1)[masked].requires_grad_()
    auxiliary = Denoiser(label_smoothing=0.1).build(tiny_teacher)
    loss = auxiliary.loss(z, values["targets"].flatten()[masked]) / masked.sum()
    torch.testing.assert_close(loss, values["alpha0.0_T1.0.loss"].squeeze(), atol=1e-6, rtol=0)
    (grad,) = torch.autograd.grad(loss, z)
    expected = values["alpha0.0_T1.0.grad"].double().flatten(0, 1)
    torch.testing.assert_close(grad, expected[masked], atol=1e-6, rtol=0)
    assert not expected[~masked].any()


LOGITS = st.lists(st.floats(-8, 8, width=32, allow_subnormal=False), min_size=6, max_size=6)


@given(row=LOGITS, temperature=st.floats(0.1, 5), top_k=st.integers(0, 8), top_p=st.floats(0.01, 1))
def test_filters_keep_the_likeliest_code_and_scale_the_kept_ones(
    row: list[float], temperature: float, top_k: int, top_p: float
) -> None:
    z = torch.tensor([row])
    out = filtered(z, temperature, top_k, top_p)
    kept = out.isfinite()
    torch.testing.assert_close(out[kept], (z / temperature)[kept])
    assert kept[0, z.argmax()]
    assert out[~kept].eq(-torch.inf).all()
    lowest = z[kept].min()
    assert (z[~kept] <= lowest).all()
    if 0 < top_k < 6:
        assert (z > lowest).sum() < top_k


def test_no_filter_changes_nothing() -> None:
    z = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(z, filtered(z, 1.0, 0, 1.0))


def test_the_generator_options_are_frozen() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        OneStep().r_init = 0.5  # type: ignore[misc]
