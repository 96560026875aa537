"""The networks against values of the published code: logits, padding, rotary angles, losses and gradients."""

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from dimo_core.backbone import full
from dimo_core.errors import MissingLibraryError
from dimo_dllm import network as module
from dimo_dllm.architecture import Architecture, Family
from dimo_dllm.network import DllmNetwork, require_bidirectional

from .conftest import FAMILIES, published, tensors

Networks = Callable[..., DllmNetwork]
each = pytest.mark.parametrize("family", FAMILIES)


def close(actual: Tensor, expected: Tensor, atol: float = 1e-6, rtol: float = 0.0) -> None:
    torch.testing.assert_close(actual, expected.to(actual.dtype).view_as(actual), atol=atol, rtol=rtol)


def states(network: DllmNetwork, x: Tensor, attend: Tensor | None = None, **given: Tensor) -> Tensor:
    """Hidden states where they were computed."""
    seen = torch.ones_like(x) if attend is None else attend
    positions = given.get("position_ids", network.positions(seen.bool()))
    return network.states(network.embed(x), None if attend is None else attend.bool(), positions)


def raw_logits(network: DllmNetwork, *args: Any, **given: Tensor) -> Tensor:
    return network.head(states(network, *args, **given))


def of_the_interface(network: DllmNetwork, x: Tensor, attend: Tensor) -> Tensor:
    c = {"tokens": x, "valid": torch.ones_like(x, dtype=torch.bool), "attend": attend.bool()}
    return network.logits(x, c, mask_ratio=torch.zeros(len(x)))


@each
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-6), (torch.float32, 5e-5)])
@torch.no_grad()
def test_logits_at_every_length(family: Family, dtype: torch.dtype, atol: float, network: Networks) -> None:
    io, made = tensors(family, "network_io"), network(family, dtype)
    for name in ("", "other_length.", "long.", "unpadded."):
        x, expected = io[f"{name}tokens"], io[f"{name}logits"]
        close(raw_logits(made, x), expected, atol)
        close(raw_logits(made, x, torch.ones_like(x)), expected, atol)


@each
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_is_not_seen_on_either_side(family: Family, side: str, network: Networks) -> None:
    io, made = tensors(family, "network_io"), network(family)
    x, attend = io[f"{side}.tokens"], io[f"{side}.attention_mask"]
    real = attend.bool()
    close(raw_logits(made, x, attend)[real], io[f"{side}.logits"][real])
    others = torch.where(real, x, (x + 1) % 50)
    close(raw_logits(made, others, attend)[real], io[f"{side}.logits"][real])
    z = of_the_interface(made, x, attend)
    if family == "llada":
        close(z[real], io[f"{side}.logits"][real])
        return
    inner = real & real.roll(1, 1)
    inner[:, 0] = False  # the published code too has a second copy there
    close(z[inner], io[f"{side}.shifted_logits"][inner])
    close(made.positions(real)[real], io[f"{side}.position_ids"][real], 0)


@torch.no_grad()
def test_dream_predicts_each_token_from_the_site_before(network: Networks) -> None:
    io, made = tensors("dream", "network_io"), network("dream")
    x = io["tokens"]
    close(of_the_interface(made, x, torch.ones_like(x)), io["shifted_logits"])
    for name in ("positions", "gaps"):
        close(raw_logits(made, x, position_ids=io[f"{name}.position_ids"]), io[f"{name}.logits"])


@each
@torch.no_grad()
def test_hidden_states(family: Family, network: Networks) -> None:
    io, made, seen = tensors(family, "network_io"), network(family), list[Tensor]()
    made.model.layers[0].register_forward_hook(lambda *args: seen.append(args[-1]))
    close(made.embed(io["tokens"]), io["hidden_0"])
    close(states(made, io["tokens"]), io["hidden_2"])
    close(seen[0], io["hidden_1"])


@each
def test_rotary_tables_are_bitwise_those_of_the_published_code(family: Family, network: Networks) -> None:
    io, made = tensors(family, "network_io"), network(family)
    assert torch.equal(torch.tensor(made.angles), io["rope.inv_freq"])
    cos, sin = made._rotary(torch.arange(12)[None], torch.float32)
    assert torch.equal(cos[0], io["rope.cos"])
    assert torch.equal(sin[0], io["rope.sin"])
    made.angles = module._angles(made.architecture.theta, 128)
    assert torch.equal(torch.tensor(made.angles), io["rope128.inv_freq"])
    cos, sin = made._rotary(io["rope128.positions"][None], torch.float32)
    assert torch.equal(cos[0], io["rope128.cos"])
    assert torch.equal(sin[0], io["rope128.sin"])


@each
@torch.no_grad()
def test_in_bf16_it_rounds_as_the_published_code(family: Family, network: Networks) -> None:
    """Stock Llama, which rotates in bf16, would be 0.2 off in LLaDA's place."""
    io, made = tensors(family, "network_io"), network(family, torch.bfloat16)
    for name in ("", "left."):
        attend = io.get(f"{name}attention_mask", torch.ones_like(io[f"{name}tokens"]))
        real, expected = attend.bool(), io[f"bfloat16.{name}logits"]
        z = raw_logits(made, io[f"{name}tokens"], attend)[real]
        if family == "llada":
            assert torch.equal(z, expected[real])
        else:  # products with a bias are summed in another order on other machines
            far = (expected.float() - io[f"{name}logits"])[real].abs().max()
            close(z.float(), io[f"{name}logits"][real], 1.5 * far.item())


@torch.no_grad()
def test_dream_in_bf16_is_stock_qwen2_to_the_bit(network: Networks) -> None:
    from transformers import Qwen2ForCausalLM

    io, made = tensors("dream", "network_io"), network("dream", torch.bfloat16)
    folder = published("dream").folder.url
    stock = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    x = io["left.tokens"]
    a = io["left.attention_mask"].bool()
    mask = a[:, None, None, :].expand(-1, 1, x.shape[1], -1)
    z = stock(x, attention_mask=mask, position_ids=made.positions(a), use_cache=False).logits
    assert torch.equal(raw_logits(made, x, a), z)


@each
def test_a_library_that_masks_the_future_is_refused(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    a = published(family).architecture
    require_bidirectional(a)
    stock = module._sdpa.sdpa_attention_forward

    def causal(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, **kwargs: Any) -> Any:
        return stock(module, q, k, v, None, **{**kwargs, "is_causal": True})

    monkeypatch.setattr(module._sdpa, "sdpa_attention_forward", causal)
    with pytest.raises(MissingLibraryError, match="masks what comes later"):
        require_bidirectional(a)


@each
def test_probabilities_embed_as_tokens_do(family: Family, network: Networks) -> None:
    made = network(family)
    x = torch.arange(12)[None]
    p = torch.nn.functional.one_hot(x, made.architecture.columns).double().requires_grad_()
    e = made.embed(p)
    close(e, made.embed(x), 1e-12)
    assert e.requires_grad


@each
def test_checkpointing_changes_no_gradient(family: Family, network: Networks) -> None:
    io, found = tensors(family, "network_io"), []
    for again in (False, True):
        made = network(family)
        made.gradient_checkpointing = again
        raw_logits(made, io["tokens"]).square().sum().backward()
        found.append([p.grad for p in made.parameters()])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def given_at(x: Tensor, sites: Tensor, attend: Tensor) -> dict[str, Tensor]:
    return {"tokens": x, "valid": ~sites, "attend": attend}


@torch.no_grad()
def test_given_sites_hold_what_the_condition_says(network: Networks) -> None:
    """Whatever stands in x, or in embeddings with their noise."""
    io, made = tensors("llada", "network_io"), network("llada")
    x, prompt, attend = io["guidance.tokens"], io["guidance.prompt"], io["guidance.attention_mask"].bool()
    uncond, zero = io["guidance.tokens_uncond"], torch.zeros(4)
    other = torch.where(prompt, 7, x)
    z = made.logits(other, given_at(uncond, prompt, attend), mask_ratio=zero)
    close(z, io["guidance.logits_uncond"])
    noisy = made.embed(other) + prompt[..., None]
    hidden = made(noisy, given_at(uncond, prompt, attend), mask_ratio=zero)
    close(made.head(hidden), io["guidance.logits_uncond"])


def cross_entropy(z: Tensor, tokens: Tensor, where: Tensor) -> Tensor:
    losses = torch.nn.functional.cross_entropy(full(z).transpose(1, 2), tokens, reduction="none")
    return losses * where


def grad_norm(made: DllmNetwork) -> Tensor:
    grads = [p.grad for p in made.parameters() if p.grad is not None]
    return torch.stack([g.norm() for g in grads]).norm()


def compare_gradients(made: DllmNetwork, golden: dict[str, Tensor], prefix: str) -> None:
    named = {made.architecture.published_name(n): p for n, p in made.named_parameters()}
    found = {key.removeprefix(prefix): t for key, t in golden.items() if key.startswith(prefix)}
    assert len(found) > 8
    for name, expected in found.items():
        close(named[name].grad, expected, 3e-7 * expected.abs().max().item())


def test_losses_of_pretraining_and_tuning_as_llada_has_them(network: Networks) -> None:
    golden, made = tensors("llada", "loss"), network("llada")
    mask_id = made.architecture.mask_id
    x, noisy = golden["pretrain.tokens"], golden["pretrain.noisy"]
    p = (1 - golden["eps"].float()) * golden["t_draw"] + golden["eps"].float()
    assert torch.equal(p, golden["pretrain.p_mask"])
    masked = golden["mask_draw"] < p[:, None]
    assert torch.equal(torch.where(masked, mask_id, x), noisy)
    z = raw_logits(made, noisy)
    z.retain_grad()
    each = cross_entropy(z, x, masked) / p[:, None].double()
    loss = each.sum() / each.numel()
    loss.backward()
    close(each, golden["pretrain.loss_per_token"], rtol=1e-9)
    close(loss, golden["pretrain.loss"], rtol=1e-9, atol=0)
    close(z.grad, golden["pretrain.grad_logits"])
    close(grad_norm(made), golden["pretrain.grad_norm"], rtol=1e-9, atol=0)
    compare_gradients(made, golden, "pretrain.grad.")

    made.zero_grad()
    tokens, lengths = golden["sft.tokens"], golden["sft.prompt_lengths"]
    prompt = torch.arange(12) < lengths[:, None]
    noisy = torch.where(prompt, tokens, torch.where(masked, mask_id, tokens))
    assert torch.equal(noisy, golden["sft.noisy"])
    z = raw_logits(made, noisy)
    z.retain_grad()
    each = cross_entropy(z, tokens, noisy == mask_id) / p[:, None].double() / (12 - lengths)[:, None]
    loss = each.sum() / len(each)
    loss.backward()
    close(each, golden["sft.loss_per_token"], rtol=1e-9)
    close(loss, golden["sft.loss"], rtol=1e-9, atol=0)
    close(z.grad, golden["sft.grad_logits"])
    close(grad_norm(made), golden["sft.grad_norm"], rtol=1e-9, atol=0)


@pytest.mark.parametrize("w", [0.0, 0.5])
@torch.no_grad()
def test_llada_likelihood(w: float, network: Networks) -> None:
    golden, made = tensors("llada", "loss"), network("llada")
    prompt, answer = golden["likelihood.prompt"], golden["likelihood.answer"]
    x = torch.cat([prompt, answer])
    given = torch.arange(len(x)) < len(prompt)
    values = []
    for noisy, p in zip(golden[f"likelihood.cfg{w}.noisy"], golden[f"likelihood.cfg{w}.p_mask"], strict=True):
        z = raw_logits(made, noisy)
        if w:
            blind = raw_logits(made, torch.where(given, made.architecture.mask_id, noisy))
            z = blind + (w + 1) * (z - blind)
        each = cross_entropy(z, x.expand_as(noisy), noisy == made.architecture.mask_id)
        values.append(-(each / p[:, None].double()).sum() / len(noisy))
    close(torch.stack(values).mean(), golden[f"likelihood.cfg{w}.value"], rtol=1e-6, atol=0)


def cart(visible: Tensor, p: float) -> Tensor:
    """Dream's weights of masked tokens by their visible neighbours, in fp32 as published."""
    away = (torch.arange(visible.shape[1])[:, None] - torch.arange(visible.shape[1])).abs()
    near = torch.where(away > 0, 0.5 * p * (1 - p) ** (away - 1).float(), 0.0)
    return (visible.float() @ near) * ~visible


def test_losses_of_tuning_as_dream_has_them(network: Networks) -> None:
    golden, made = tensors("dream", "loss"), network("dream")
    tokens, t, attend = golden["tokens"], golden["t"], golden["attention_mask"]
    masked = (golden["mask_draw"] < t[:, None]) & golden["loss_mask"]
    assert torch.equal(masked, golden["masked"])
    noisy = torch.where(masked, made.architecture.mask_id, tokens)
    assert torch.equal(noisy, golden["noisy"])
    for prefix, x in (("", noisy), ("eos_as_one.", golden["eos_as_one.noisy"])):
        hidden = golden[f"{prefix}masked"]
        z = raw_logits(made, x, attend)
        z.retain_grad()
        each = cross_entropy(made.aligned(z), tokens, hidden)
        close(each, golden[f"{prefix}cross_entropy"], rtol=1e-9)
        weights = {
            "original": (1 / t)[:, None].expand_as(x),
            "linear": (1 - t)[:, None].expand_as(x),
            "none": torch.ones_like(each),
            "cart0.1": cart(~hidden, 0.1),
            "cart0.8": cart(~hidden, 0.8),
        }
        losses = {kind: (weight.double() * each).sum() / hidden.sum() for kind, weight in weights.items()}
        focal = 0.25 * (1 - (-each).exp()).square() * each
        losses["focal_original"] = (weights["original"].double() * focal).sum() / hidden.sum()
        for kind, loss in losses.items():
            exact = 1e-9 if kind == "none" else 1e-6
            close(loss, golden[f"{prefix}{kind}.loss"], rtol=exact, atol=0)
        if not prefix:
            losses["cart0.1"].backward(retain_graph=True)
            close(z.grad, golden["cart0.1.grad_logits"])
            close(grad_norm(made), golden["cart0.1.grad_norm"], rtol=1e-6, atol=0)
            compare_gradients(made, golden, "cart0.1.grad.")


def test_the_row_of_padding_learns_in_llada_alone(network: Networks) -> None:
    """LLaDA's end of text is its padding, and learns; Dream's does not."""
    for family in FAMILIES:
        made = network(family)
        eos = made.architecture.eos_id
        made.embed(torch.tensor([[eos, 1]])).sum().backward()
        assert bool(made.model.embed_tokens.weight.grad[eos].any()) == (family == "llada")


def test_biases_grouped_heads_and_a_tied_head_are_built() -> None:
    a: Architecture = attrs.evolve(published("llada").architecture, qkv_bias=True, kv_heads=1, tied=True)
    made = DllmNetwork(a)
    names = dict(made.named_parameters())
    assert "model.layers.0.self_attn.q_proj.bias" in names
    assert "model.layers.0.self_attn.o_proj.bias" not in names
    assert tuple(names["model.layers.0.self_attn.k_proj.weight"].shape) == (8, 32)
    assert "lm_head.weight" not in names
    h = torch.randn(1, 3, 32)
    close(made.head(h), h @ names["model.embed_tokens.weight"].T, 1e-5)
