"""The transformer, guidance, filters and the whole gradient step against values of the published code."""

from collections.abc import Callable

import attrs
import pytest
import torch
from torch import Tensor

from dimo_core.divergence import Divergence
from dimo_core.draws import RecordedDraws
from dimo_core.engine.part_state import decayed
from dimo_core.errors import CheckpointError
from dimo_core.files.weights import assign
from dimo_core.generator import Rollout, filtered
from dimo_core.guidance import Constant, guided
from dimo_core.method.denoiser import Denoiser, DenoisingAuxiliary
from dimo_core.method.one_step import OneStep, OneStepGenerator
from dimo_core.method.process import Remask, apply_mask, perturb
from dimo_core.method.step import Step
from dimo_core.method.weighting import weight_sum
from dimo_divergences import FKL, RKL, Jeffrey
from dimo_maskgit.codebook import PatchCodebook
from dimo_maskgit.teacher import MaskGit
from dimo_maskgit.transformer import Architecture, MaskTransformer

Golden = Callable[[str], dict[str, Tensor]]
SMALL = Architecture(width=32, depth=2, heads=4, mlp=64, dropout=0.0, grid=4, codes=16, classes=5)
TINY = Architecture(width=8, depth=1, heads=2, mlp=12, dropout=0.0, grid=2, codes=6, classes=3)


def network(architecture: Architecture, weights: dict[str, Tensor], prefix: str = "") -> MaskTransformer:
    net = MaskTransformer(architecture, architecture.codes + 1).double()
    own = {k.removeprefix(prefix): v.double() for k, v in weights.items() if k.startswith(prefix)}
    assign(net, own, "golden")
    return net.eval()


def teacher(architecture: Architecture, net: MaskTransformer) -> MaskGit:
    card = {"network": attrs.asdict(architecture), "classes": [str(i) for i in range(architecture.classes)]}
    codebook = PatchCodebook(torch.zeros(2, 1), 1, 1, architecture.grid)
    keep = MaskGit(mask_logit="keep")
    vars(keep).update(vars(MaskGit._assembled(card, net, codebook)) | {"mask_logit": "keep"})
    return keep


@pytest.fixture
def io(golden: Golden) -> dict[str, Tensor]:
    return golden("transformer_io")


@pytest.fixture
def net(golden: Golden) -> MaskTransformer:
    return network(SMALL, golden("transformer_weights"))


HALF = torch.full((4,), 0.5, dtype=torch.float64)


@pytest.mark.parametrize(
    ("key", "drop"),
    [
        ("logits_cond", "none"),
        ("logits_all_false", "none"),
        ("logits_uncond", "all"),
        ("logits_mixed", "mixed"),
    ],
)
def test_logits_equal_the_reference(net: MaskTransformer, io: dict[str, Tensor], key: str, drop: str) -> None:
    null = torch.full_like(io["labels"], SMALL.classes)
    dropped = {"none": io["drop_mixed"] & False, "all": io["drop_mixed"] | True, "mixed": io["drop_mixed"]}
    c = torch.where(dropped[drop], null, io["labels"])
    logits = net.logits(io["tokens"].flatten(1), c, mask_ratio=HALF)
    torch.testing.assert_close(logits, io[key].double(), atol=1e-6, rtol=0)


def test_logits_equal_the_reference_in_float32(net: MaskTransformer, io: dict[str, Tensor]) -> None:
    logits = net.float().logits(io["tokens"].flatten(1), io["labels"], mask_ratio=HALF.float())
    torch.testing.assert_close(logits, io["logits_cond"], atol=2e-5, rtol=0)


def test_embedding_noise_equals_the_reference(net: MaskTransformer, io: dict[str, Tensor]) -> None:
    e = perturb(net.embed(io["tokens"].flatten(1)), float(io["noise_sigma"]), io["noise"].double())
    logits = net.head(net(e, io["labels"], mask_ratio=HALF))
    torch.testing.assert_close(logits, io["logits_noise"].double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("scale", "key"), [("cfg_scale", "logits_cfg"), ("cfg_scale_vec", "logits_cfg_vec")])
def test_guidance_equals_the_reference(
    net: MaskTransformer, io: dict[str, Tensor], scale: str, key: str
) -> None:
    x, c, s = io["tokens"].flatten(1), io["labels"], io[scale].expand(4)
    logits = guided(teacher(SMALL, net), net, x, c, mask_ratio=HALF, scale=s)(None)
    torch.testing.assert_close(logits, io[key].double(), atol=1e-6, rtol=0)


def test_activations_equal_the_reference(net: MaskTransformer, io: dict[str, Tensor]) -> None:
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, _args, output: seen.__setitem__(name, output)

    net.first_layer.register_forward_hook(keep("after_first_layer"))
    net.last_layer.register_forward_hook(keep("after_last_layer"))
    for i, (attention, feed_forward) in enumerate(net.transformer.layers):
        attention.fn.register_forward_hook(keep(f"attn_out_{i}"))
        feed_forward.fn.register_forward_hook(keep(f"ff_out_{i}"))
    net.logits(io["tokens"].flatten(1), io["labels"], mask_ratio=HALF)
    assert len(seen) == 6
    for name, value in seen.items():
        torch.testing.assert_close(value, io[f"act.{name}"].double(), atol=1e-6, rtol=0)


def test_chosen_rows_equal_the_same_rows_of_all_logits(net: MaskTransformer, io: dict[str, Tensor]) -> None:
    x, c = io["tokens"].flatten(1), io["labels"]
    rows = torch.tensor([0, 5, 17, 63])
    every = net.logits(x, c, mask_ratio=HALF).flatten(0, 1)[rows]
    torch.testing.assert_close(net.logits(x, c, mask_ratio=HALF, rows=rows), every)


def test_guided_rows_equal_the_same_rows_of_all(net: MaskTransformer, io: dict[str, Tensor]) -> None:
    x, c, rows = io["tokens"].flatten(1), io["labels"], torch.tensor([3, 20, 21, 60])
    options = {"mask_ratio": HALF, "scale": io["cfg_scale_vec"]}
    z = guided(teacher(SMALL, net), net, x, c, **options)
    torch.testing.assert_close(z(rows), z(None).flatten(0, 1)[rows])


def test_one_hot_probabilities_embed_as_their_tokens(net: MaskTransformer) -> None:
    x = torch.arange(16).view(1, 16)
    one_hot = torch.nn.functional.one_hot(x, 16).double()
    torch.testing.assert_close(net.embed(one_hot), net.embed(x))


def test_dropping_the_mask_column_equals_keeping_it_at_minus_infinity(
    net: MaskTransformer, io: dict[str, Tensor]
) -> None:
    x, c = io["tokens"].flatten(1), io["labels"]
    kept = net.logits(x, c, mask_ratio=HALF)
    kept[..., SMALL.codes] = -torch.inf
    net.columns = SMALL.codes
    torch.testing.assert_close(net.logits(x, c, mask_ratio=HALF).softmax(-1), kept.softmax(-1)[..., :-1])


def test_a_file_of_another_shape_is_refused_with_the_differences(net: MaskTransformer) -> None:
    weights = net.state_dict()
    weights["extra"] = weights.pop("pos_emb")
    weights["bias"] = weights["bias"][:3]
    with pytest.raises(CheckpointError, match=r"missing: pos_emb[\s\S]*shape: bias[\s\S]*unexpected: extra"):
        assign(net, weights, "a file")


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="not divisible by heads 5"):
        attrs.evolve(SMALL, heads=5)


@pytest.mark.parametrize(
    "setting", [(0, 1.0, 1.0), (0, 1.0, 7.0), (0, 0.7, 1.0), (5, 1.0, 1.0), (6, 0.8, 2.0)]
)
def test_one_step_filters_equal_the_reference(golden: Golden, setting: tuple[int, float, float]) -> None:
    values, (k, p, temperature) = golden("one_step_filters"), setting
    key = f"topk{k}_topp{0.0 if p == 1 else p}_temp{temperature}.probs"
    probs = filtered(values["logits"], temperature, k, p).softmax(-1)
    torch.testing.assert_close(probs, values[key], atol=1e-6, rtol=0)


@pytest.fixture
def step_values(golden: Golden) -> dict[str, Tensor]:
    return golden("generator_gradient_step")


def golden_step(values: dict[str, Tensor], divergence: Divergence) -> Step:
    nets = {name: network(TINY, values, f"{name}.") for name in ("teacher", "generator", "auxiliary")}
    made = teacher(TINY, nets["teacher"])
    return Step(
        teacher=made,
        p_phi=nets["teacher"].requires_grad_(False),
        p_theta=OneStepGenerator(OneStep(sigma_init=0.0), made.tokens, nets["generator"]),
        p_psi=DenoisingAuxiliary(Denoiser(label_smoothing=0.1), nets["auxiliary"]),
        divergence=divergence,
        guidance=Constant(scale=float(values["guidance"])),
        teacher_temperature=1.0,
        weight=weight_sum,
        jacobian="auxiliary",
    )


def golden_remask(masked: Tensor) -> Remask:
    masked = masked.flatten(1)
    return Remask(
        ratio=masked.double().mean(1),
        counts=masked.sum(1),
        masked=masked,
        rows=masked.flatten().nonzero().squeeze(1),
        kept=(~masked).flatten().nonzero().squeeze(1),
        total=int(masked.sum()),
    )


@pytest.mark.parametrize(
    ("kind", "divergence"), [("fkl", FKL()), ("rkl", RKL()), ("jeffreys_0.5", Jeffrey(beta=0.5))]
)
def test_the_generator_gradient_of_every_parameter_equals_the_reference(
    step_values: dict[str, Tensor], kind: str, divergence: Divergence
) -> None:
    v, step = step_values, golden_step(step_values, divergence)
    x_init, c = v["x_init"].flatten(1), v["labels"]
    draws = RecordedDraws(seed=0, total=3, values={})
    hidden = step.p_theta(x_init, c, draws)
    torch.testing.assert_close(step.p_theta.head(hidden), v["generator_logits"], atol=1e-9, rtol=1e-9)
    rollout = Rollout(x_init=x_init, hidden=hidden, u=torch.zeros(x_init.shape))
    remask = golden_remask(v["remask"])
    x_tilde_t = apply_mask(v["x0_sampled"].flatten(1), remask.masked, step.teacher.tokens)
    assert torch.equal(v["x_t"].flatten(1), x_tilde_t)
    phi, psi = step.phi(x_tilde_t, c, remask), step.psi(x_tilde_t, c, remask, learns=False)
    rows, theta, k = remask.rows, step.theta(rollout, remask, learns=True), slice(None)
    torch.testing.assert_close(phi(k), v["teacher_logits_cfg"].flatten(0, 1)[rows], atol=1e-9, rtol=1e-9)
    step.generator_backward(theta(k), phi(k), psi(k), step.w(remask, theta, phi), batch=3)
    theta.backward()

    prefix = f"sigma0.0.{kind}.grad."
    for name, parameter in step.p_theta.backbone.named_parameters():
        expected = v[prefix + name]
        error = (parameter.grad - expected).abs().max() / expected.abs().max().clamp_min(1e-30)
        assert error < 1e-9, name
    assert all(p.grad is None for p in (*step.p_phi.parameters(), *step.p_psi.parameters()))


def test_the_auxiliary_gradient_of_every_parameter_equals_the_reference(
    step_values: dict[str, Tensor],
) -> None:
    v, step = step_values, golden_step(step_values, FKL())
    remask = golden_remask(v["aux_update.mask"])
    x_theta = v["x0_sampled"].flatten(1)
    x_tilde_t = apply_mask(x_theta, remask.masked, step.teacher.tokens)
    assert torch.equal(v["aux_update.x_t"].flatten(1), x_tilde_t)
    psi = step.psi(x_tilde_t, v["labels"], remask, learns=True)
    rows = remask.rows
    loss = step.auxiliary_backward(psi(slice(None)), x_theta.flatten()[rows], len(rows))
    psi.backward()
    torch.testing.assert_close(loss, v["aux_update.loss"].squeeze(), atol=1e-9, rtol=1e-9)
    for name, parameter in step.p_psi.backbone.named_parameters():
        expected = v[f"aux_update.grad.{name}"]
        error = (parameter.grad - expected).abs().max() / expected.abs().max().clamp_min(1e-30)
        assert error < 1e-9, name
    assert all(p.grad is None for p in step.p_theta.parameters())


def test_weight_decay_spares_embeddings_positions_norms_and_biases() -> None:
    """The output's weight is that of the embedding; its bias is one row a position."""
    network = MaskTransformer(TINY, TINY.codes)
    weights = decayed(network)
    block = "transformer.layers.0"
    expected = {
        "first_layer.2.weight",
        "first_layer.6.weight",
        f"{block}.0.fn.mha.in_proj_weight",
        f"{block}.0.fn.mha.out_proj.weight",
        f"{block}.1.fn.net.0.weight",
        f"{block}.1.fn.net.3.weight",
        "last_layer.2.weight",
    }
    assert {n for n, p in network.named_parameters() if p in weights} == expected
    spared = {n for n, p in network.named_parameters() if p not in weights and not n.endswith("bias")}
    norms = (
        "first_layer.0",
        "first_layer.4",
        f"{block}.0.norm",
        f"{block}.1.norm",
        "last_layer.0",
        "last_layer.4",
    )
    assert spared == {"tok_emb.weight", "pos_emb", *(f"{norm}.weight" for norm in norms)}
