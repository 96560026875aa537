"""The VQGAN against values of the published code, and against a second implementation of its description."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import safetensors.torch
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as f

from dimo_core.errors import CheckpointError, MissingLibraryError, UsageError
from dimo_core.files.weights import encode_tensors
from dimo_core.teacher import to_uint8
from dimo_maskgit.diffusers_model import load_vq_model
from dimo_maskgit.tokenizers import load_tokenizer
from dimo_maskgit.vqgan import Vqgan
from dimo_maskgit.vqgan_config import VqganConfig

Golden = Callable[[str], dict[str, Tensor]]
SMALL = VqganConfig(
    ch=32,
    ch_mult=(1, 1, 2),
    num_res_blocks=1,
    attn_resolutions=(4,),
    resolution=16,
    in_channels=3,
    z_channels=8,
    embed_dim=6,
    n_embed=16,
)
OTHERS = {
    "attention at several levels": attrs.evolve(SMALL, attn_resolutions=(16, 4)),
    "attention in the middle only": attrs.evolve(SMALL, attn_resolutions=()),
    "attention at a side that no level has": attrs.evolve(SMALL, attn_resolutions=(5, 8)),
    "wider, then narrower": attrs.evolve(SMALL, ch_mult=(1, 3, 2), num_res_blocks=2),
    "grey, one level": attrs.evolve(SMALL, in_channels=1, ch_mult=(1,), resolution=8),
}
each_config = pytest.mark.parametrize("config", OTHERS.values(), ids=OTHERS.keys())


@pytest.fixture
def io(golden: Golden) -> dict[str, Tensor]:
    return golden("vqgan_io")


@pytest.fixture
def weights(golden: Golden) -> dict[str, Tensor]:
    return golden("vqgan_weights")


@pytest.fixture
def vqgan(weights: dict[str, Tensor]) -> Vqgan:
    return Vqgan.from_taming(weights, SMALL, "golden").double()


def as_map(vectors: Tensor) -> Tensor:
    """[B, L, D] as the reference lays it out, [B, D, h, w]."""
    side = round(vectors.shape[1] ** 0.5)
    return vectors.transpose(1, 2).unflatten(2, (side, side))


def unit(image: Tensor) -> Tensor:
    """From the reference's [-1, 1] to [0, 1]."""
    return (image.double() + 1) / 2


def test_codebook_rows_equal_the_reference(vqgan: Vqgan, io: dict[str, Tensor]) -> None:
    assert torch.equal(io["quantized"].double(), as_map(vqgan.lookup(io["codes"].flatten(1))))


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-4), (torch.float64, 1e-6)])
def test_decoded_images_equal_the_reference(
    vqgan: Vqgan, io: dict[str, Tensor], dtype: torch.dtype, atol: float
) -> None:
    vqgan.to(dtype)
    decoded = vqgan.pixels(vqgan.lookup(io["codes"].flatten(1))) * 2 - 1
    torch.testing.assert_close(decoded, io["decoded"].to(dtype), atol=atol, rtol=0)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-4), (torch.float64, 1e-6)])
def test_decoded_bytes_equal_the_reference(
    vqgan: Vqgan, io: dict[str, Tensor], dtype: torch.dtype, atol: float
) -> None:
    """A pixel nearer than the tolerance to where the byte changes may become the one or the other."""
    actual, expected = to_uint8(vqgan.to(dtype).decode(io["codes"].flatten(1))), io["decoded_uint8"]
    byte = io["decoded"].double() * 127.5 + 128
    sure = (byte - byte.round()).abs() > atol * 127.5
    assert 0.95 < sure.double().mean()
    assert torch.equal(expected[sure], actual[sure])
    assert 1 >= int((expected.int() - actual.int()).abs().max())


def test_bytes_are_rounded_by_the_rule_of_the_reference() -> None:
    x = torch.arange(-5000, 5001, dtype=torch.float64).view(1, 1, 1, -1) / 4096
    expected = (x * 127.5 + 128).clamp(0, 255).to(torch.uint8)
    assert torch.equal(expected, to_uint8((x + 1) / 2))


def test_bytes_halfway_between_two_are_rounded_upwards() -> None:
    ties = (torch.arange(255, dtype=torch.float64) + 0.5) / 255
    ties = ties[ties * 255 % 1 == 0.5].view(1, 1, 1, -1)
    assert ties.numel() > 100
    assert torch.equal((ties * 255).ceil().to(torch.uint8), to_uint8(ties))


def test_latents_equal_the_reference(vqgan: Vqgan, io: dict[str, Tensor]) -> None:
    latents = as_map(vqgan.latents(unit(io["image"])))
    torch.testing.assert_close(latents, io["latent"].double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_encoded_codes_equal_the_reference(vqgan: Vqgan, io: dict[str, Tensor], dtype: torch.dtype) -> None:
    codes = vqgan.to(dtype).encode(unit(io["image"]).to(dtype))
    assert torch.equal(io["encoded_codes"].flatten(1), codes)


def test_encoded_rows_and_reconstruction_equal_the_reference(vqgan: Vqgan, io: dict[str, Tensor]) -> None:
    rows = vqgan.lookup(vqgan.encode(unit(io["image"])))
    assert torch.equal(io["encoded_quantized"].double(), as_map(rows))
    reconstruction = vqgan.pixels(rows) * 2 - 1
    torch.testing.assert_close(reconstruction, io["reconstruction"].double(), atol=1e-6, rtol=0)


# A second implementation, from the description of the network, on taming's names.

Weights = dict[str, Tensor]


def block_shapes(name: str, inner: int, outer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from ((f"{name}.norm1", (inner,)), (f"{name}.conv1", (outer, inner, 3, 3)))
    yield from ((f"{name}.norm2", (outer,)), (f"{name}.conv2", (outer, outer, 3, 3)))
    if inner != outer:
        yield f"{name}.nin_shortcut", (outer, inner, 1, 1)


def attention_shapes(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.norm", (width,)
    yield from ((f"{name}.{part}", (width, width, 1, 1)) for part in ("q", "k", "v", "proj_out"))


def middle_shapes(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from block_shapes(f"{name}.block_1", width, width)
    yield from attention_shapes(f"{name}.attn_1", width)
    yield from block_shapes(f"{name}.block_2", width, width)


def layer_shapes(config: VqganConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every layer of taming's VQGAN with the shape of its weight."""
    widths, last = [config.ch * m for m in config.ch_mult], len(config.ch_mult) - 1
    attends = [config.resolution // 2**i in config.attn_resolutions for i in range(last + 1)]
    width = config.ch
    yield "encoder.conv_in", (width, config.in_channels, 3, 3)
    for level, outer in enumerate(widths):
        for block in range(config.num_res_blocks):
            yield from block_shapes(f"encoder.down.{level}.block.{block}", width, outer)
            width = outer
            if attends[level]:
                yield from attention_shapes(f"encoder.down.{level}.attn.{block}", width)
        if level < last:
            yield f"encoder.down.{level}.downsample.conv", (width, width, 3, 3)
    yield from middle_shapes("encoder.mid", width)
    yield from (("encoder.norm_out", (width,)), ("encoder.conv_out", (config.z_channels, width, 3, 3)))
    yield "quant_conv", (config.embed_dim, config.z_channels, 1, 1)
    yield "quantize.embedding", (config.n_embed, config.embed_dim)
    yield "post_quant_conv", (config.z_channels, config.embed_dim, 1, 1)
    yield "decoder.conv_in", (width, config.z_channels, 3, 3)
    yield from middle_shapes("decoder.mid", width)
    for level, outer in reversed([*enumerate(widths)]):
        for block in range(config.num_res_blocks + 1):
            yield from block_shapes(f"decoder.up.{level}.block.{block}", width, outer)
            width = outer
            if attends[level]:
                yield from attention_shapes(f"decoder.up.{level}.attn.{block}", width)
        if level > 0:
            yield f"decoder.up.{level}.upsample.conv", (width, width, 3, 3)
    yield from (("decoder.norm_out", (width,)), ("decoder.conv_out", (config.in_channels, width, 3, 3)))


def taming_shapes(config: VqganConfig) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for name, shape in layer_shapes(config):
        shapes[f"{name}.weight"] = shape
        if name != "quantize.embedding":
            shapes[f"{name}.bias"] = shape[:1]
    return shapes


def random_weights(config: VqganConfig) -> Weights:
    generator = torch.Generator().manual_seed(len(config.ch_mult))
    scale = {1: 0.3, 2: 1.0, 4: 0.1}
    return {
        name: torch.randn(shape, generator=generator) * scale[len(shape)]
        for name, shape in taming_shapes(config).items()
    }


def normed(w: Weights, name: str, x: Tensor) -> Tensor:
    return f.group_norm(x, 32, w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-6)


def convolved(w: Weights, name: str, x: Tensor, stride: int = 1, padding: int | None = None) -> Tensor:
    kernel = w[f"{name}.weight"]
    same = kernel.shape[-1] // 2 if padding is None else padding
    return f.conv2d(x, kernel, w[f"{name}.bias"], stride=stride, padding=same)


def block(w: Weights, name: str, x: Tensor) -> Tensor:
    h = x
    for i in (1, 2):
        h = normed(w, f"{name}.norm{i}", h)
        h = convolved(w, f"{name}.conv{i}", h * h.sigmoid())
    return h + (convolved(w, f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in w else x)


def attention(w: Weights, name: str, x: Tensor) -> Tensor:
    h = normed(w, f"{name}.norm", x)
    q, k, v = (convolved(w, f"{name}.{part}", h).flatten(2) for part in "qkv")
    p = (q.transpose(1, 2) @ k * x.shape[1] ** -0.5).softmax(-1)
    return x + convolved(w, f"{name}.proj_out", (v @ p.transpose(1, 2)).view_as(x))


def middle(w: Weights, name: str, x: Tensor) -> Tensor:
    return block(w, f"{name}.block_2", attention(w, f"{name}.attn_1", block(w, f"{name}.block_1", x)))


def finished(w: Weights, name: str, x: Tensor) -> Tensor:
    h = normed(w, f"{name}.norm_out", x)
    return convolved(w, f"{name}.conv_out", h * h.sigmoid())


def level(w: Weights, name: str, x: Tensor, blocks: int) -> Tensor:
    for i in range(blocks):
        x = block(w, f"{name}.block.{i}", x)
        x = attention(w, f"{name}.attn.{i}", x) if f"{name}.attn.{i}.q.weight" in w else x
    return x


def described_latents(w: Weights, config: VqganConfig, image: Tensor) -> Tensor:
    x = convolved(w, "encoder.conv_in", image)
    for i in range(len(config.ch_mult)):
        x = level(w, f"encoder.down.{i}", x, config.num_res_blocks)
        if i < len(config.ch_mult) - 1:
            x = convolved(w, f"encoder.down.{i}.downsample.conv", f.pad(x, (0, 1, 0, 1)), stride=2, padding=0)
    return convolved(w, "quant_conv", finished(w, "encoder", middle(w, "encoder.mid", x)))


def described_images(w: Weights, config: VqganConfig, z: Tensor) -> Tensor:
    x = middle(w, "decoder.mid", convolved(w, "decoder.conv_in", convolved(w, "post_quant_conv", z)))
    for i in reversed(range(len(config.ch_mult))):
        x = level(w, f"decoder.up.{i}", x, config.num_res_blocks + 1)
        if i > 0:
            doubled = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            x = convolved(w, f"decoder.up.{i}.upsample.conv", doubled)
    return finished(w, "decoder", x)


@each_config
def test_networks_of_other_sizes_compute_what_taming_describes(config: VqganConfig) -> None:
    w = random_weights(config)
    vqgan = Vqgan.from_taming(w, config, "random").double()
    w = {name: tensor.double() for name, tensor in w.items()}
    image = torch.linspace(-1, 1, 2 * config.in_channels * config.resolution**2, dtype=torch.float64)
    image = (image * 40).sin().view(2, config.in_channels, config.resolution, config.resolution)
    z = described_latents(w, config, image)
    torch.testing.assert_close(as_map(vqgan.latents(unit(image))), z)
    torch.testing.assert_close(
        vqgan.pixels(z.flatten(2).transpose(1, 2)) * 2 - 1, described_images(w, config, z)
    )
    nearest = (z.movedim(1, -1).flatten(1, 2)[:, :, None] - w["quantize.embedding.weight"]).square().sum(-1)
    assert torch.equal(nearest.argmin(-1), vqgan.encode(unit(image)))


def test_the_published_vqgan_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        vqgan = Vqgan(VqganConfig.published())
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in vqgan.named_children()}
    expected = {"encoder": 29_298_176, "decoder": 42_449_795, "quantize": 262_144}
    assert expected | {"quant_conv": 65_792, "post_quant_conv": 65_792} == sizes
    assert sum(sizes.values()) == 72_141_699
    assert [] == list(vqgan.buffers())
    assert (256, 3, 16, 1024) == (vqgan.side, vqgan.channels, vqgan.grid, vqgan.codes)


def test_the_published_checkpoint_loads_without_a_model_yaml() -> None:
    shapes = taming_shapes(VqganConfig.published())
    assert len(shapes) == 343
    assert shapes["decoder.up.3.block.0.nin_shortcut.weight"] == (256, 512, 1, 1)
    assert shapes["encoder.down.4.attn.1.proj_out.weight"] == (512, 512, 1, 1)
    tensors = {name: torch.tensor(0.5).expand(shape) for name, shape in shapes.items()}
    tensors["loss.discriminator.main.0.weight"] = torch.zeros(64, 3, 4, 4)
    vqgan = Vqgan.from_taming(tensors, None, "last.ckpt")
    assert VqganConfig.published() == vqgan.config
    assert all(bool((p == 0.5).all()) for p in vqgan.parameters())
    assert sum(p.numel() for p in vqgan.parameters()) == 72_141_699


# Probabilities.


def test_one_hot_probabilities_decode_as_their_codes(vqgan: Vqgan, io: dict[str, Tensor]) -> None:
    codes = io["codes"].flatten(1)
    torch.testing.assert_close(vqgan.decode(f.one_hot(codes, 16).double()), vqgan.decode(codes))


def test_what_is_no_code_shows_as_the_last_code(vqgan: Vqgan) -> None:
    x = torch.arange(16).view(1, 16)
    beyond = x.where(x > 3, 16)
    last = vqgan.decode(beyond.clamp_max(15))
    assert torch.equal(last, vqgan.decode(beyond))
    torch.testing.assert_close(vqgan.decode(f.one_hot(beyond, 17).double()), last)


def test_images_have_a_gradient_in_probabilities(vqgan: Vqgan) -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    probabilities = drawn(2, 16, 17).softmax(-1).requires_grad_()
    weight, direction = drawn(2, 3, 16, 16), drawn(2, 16, 17)
    value = (vqgan.decode(probabilities) * weight).sum()
    (gradient,) = torch.autograd.grad(value, probabilities)
    step = 1e-6 * direction
    with torch.no_grad():
        up, down = (vqgan.decode(probabilities + sign * step) for sign in (1, -1))
    slope = ((up - down) * weight).sum() / 2e-6
    assert slope.abs() > 0.1
    torch.testing.assert_close((gradient * direction).sum(), slope, atol=0, rtol=1e-6)
    assert torch.equal(gradient[..., 15], gradient[..., 16])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_probabilities_of_another_precision_are_taken(
    vqgan: Vqgan, io: dict[str, Tensor], dtype: torch.dtype
) -> None:
    codes = io["codes"].flatten(1)
    images = vqgan.float().decode(f.one_hot(codes, 16).to(dtype))
    torch.testing.assert_close(images, vqgan.decode(codes))


def test_chunks_bound_what_passes_at_once_and_change_nothing(
    vqgan: Vqgan, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.arange(5 * 16).view(5, 16) % 16
    images = vqgan.decode(x)
    codes = vqgan.encode(images)
    passed = []
    for part in (vqgan.decoder, vqgan.encoder):
        part.register_forward_pre_hook(lambda _module, args: passed.append(len(args[0])))
    monkeypatch.setattr(Vqgan, "chunk", 2)
    torch.testing.assert_close(vqgan.decode(x), images, atol=1e-12, rtol=0)
    assert torch.equal(codes, vqgan.encode(images))
    assert [2, 2, 1, 2, 2, 1] == passed


def test_loading_draws_no_random_numbers_and_freezes(weights: dict[str, Tensor]) -> None:
    state = torch.get_rng_state()
    vqgan = Vqgan.from_taming(weights, SMALL, "golden")
    assert torch.equal(state, torch.get_rng_state())
    assert not vqgan.training
    assert not any(p.requires_grad for p in vqgan.parameters())


# Files.


def reloaded(vqgan: Vqgan) -> Vqgan:
    spec = yaml.safe_load(yaml.safe_dump(vqgan.spec()))
    tensors = safetensors.torch.load(encode_tensors(vqgan.state_dict()))
    tokenizer = load_tokenizer(spec, tensors, "a folder")
    assert isinstance(tokenizer, Vqgan)
    return tokenizer


def test_a_written_vqgan_is_read_back_bit_by_bit(weights: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    vqgan = Vqgan.from_taming(weights, SMALL, "golden")
    again = reloaded(vqgan)
    assert again.config == SMALL
    assert vqgan.state_dict().keys() == again.state_dict().keys()
    assert all(torch.equal(t, again.state_dict()[name]) for name, t in vqgan.state_dict().items())
    codes = io["codes"].flatten(1)
    assert torch.equal(vqgan.decode(codes), again.decode(codes))


def test_written_names_are_those_of_diffusers(vqgan: Vqgan) -> None:
    with torch.device("meta"):
        model: nn.Module = load_vq_model()(**SMALL.vq_model_options())
    shapes = {name: t.shape for name, t in vqgan.state_dict().items()}
    assert {name: t.shape for name, t in model.state_dict().items()} == shapes


@pytest.mark.parametrize("dropped", [("encoder.",), ("encoder.", "quant_conv.")])
def test_a_vqgan_without_encoder_decodes_only(
    weights: dict[str, Tensor], io: dict[str, Tensor], dropped: tuple[str, ...]
) -> None:
    half = reloaded(
        Vqgan.from_taming({n: t for n, t in weights.items() if not n.startswith(dropped)}, SMALL, "half")
    )
    assert {"decoder", "quantize", "post_quant_conv"} == {n.partition(".")[0] for n in half.state_dict()}
    codes = io["codes"].flatten(1)
    assert torch.equal(Vqgan.from_taming(weights, SMALL, "whole").decode(codes), half.decode(codes))
    with pytest.raises(UsageError, match="has no encoder"):
        half.encode(torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"encoder.mid.attn_1.q.bias": None},
            r"missing: encoder\.mid_block\.attentions\.0\.to_q\.bias \[64\]",
        ),
        ({"quant_conv.weight": None}, r"missing: quant_conv\.weight \[6, 8, 1, 1\]"),
        (
            {"decoder.up.0.block.1.conv2.bias": None},
            r"missing: decoder\.up_blocks\.2\.resnets\.1\.conv2\.bias",
        ),
        ({"decoder.extra": torch.zeros(2)}, r"unexpected: decoder\.extra \[2\]"),
        ({"quantize.embedding.weight": torch.zeros(7, 6)}, r"shape: quantize\.embedding\.weight is \[7, 6\]"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_the_difference(
    weights: dict[str, Tensor], change: dict[str, Tensor | None], message: str
) -> None:
    changed = {n: t for n, t in {**weights, **change}.items() if t is not None}
    with pytest.raises(CheckpointError, match=message) as caught:
        Vqgan.from_taming(changed, SMALL, "last.ckpt")
    assert "last.ckpt does not fit the network (1 differences)" in str(caught.value)


def test_a_file_of_other_sizes_without_a_model_yaml_says_so(weights: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match=r"needs its model\.yaml"):
        Vqgan.from_taming(weights, None, "last.ckpt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ch": None}, "ch"),
        ({"depth": 3}, "depth"),
        ({"ch": 48}, r"widths \[48, 48\] that are no multiples of 32"),
        ({"resolution": 18}, "cannot be halved 2 times"),
        ({"n_embed": 0}, "n_embed"),
        ({"embed_dim": "six"}, "embed_dim"),
        ({"ch_mult": []}, "ch_mult"),
        ({"ch_mult": [2, 2, 4]}, "ch_mult starts with 2; only 1 is built"),
    ],
)
def test_a_wrong_description_is_refused(change: dict[str, Any], message: str) -> None:
    spec = {name: value for name, value in {**SMALL.as_spec(), **change}.items() if value is not None}
    with pytest.raises(
        CheckpointError, match=rf"^teacher.yaml: wrong description of a VQGAN: [\s\S]*{message}"
    ):
        load_tokenizer({"kind": "vqgan", **spec}, {}, "teacher.yaml")


# model.yaml.


def model_yaml(**changes: Any) -> dict[str, Any]:
    """taming's file for the published VQGAN; ``__`` leads into a section, None deletes."""
    dd: dict[str, Any] = {
        "double_z": False,
        "z_channels": 256,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
    }
    dd |= {
        "ch": 128,
        "ch_mult": [1, 1, 2, 2, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [16],
        "dropout": 0.0,
    }
    params = {"embed_dim": 256, "n_embed": 1024, "ddconfig": dd, "lossconfig": {"target": "x"}}
    data: dict[str, Any] = {"target": "taming.models.vqgan.VQModel", "params": params}
    for path, value in changes.items():
        *sections, name = path.split("__")
        place = data
        for section in sections:
            place = place[section]
        place[name] = value
        if value is None:
            del place[name]
    return {"model": data}


def test_the_published_sizes_are_read_from_model_yaml() -> None:
    assert VqganConfig.published() == VqganConfig.from_model_yaml(model_yaml())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"params__ddconfig__double_z": True}, "ddconfig.double_z is True, only False is built"),
        ({"params__ddconfig__double_z": None}, r"ddconfig.double_z is True \(taming's default\)"),
        ({"params__ddconfig__resamp_with_conv": False}, "ddconfig.resamp_with_conv is False"),
        ({"params__ddconfig__attn_type": "linear"}, "ddconfig.attn_type is 'linear'"),
        ({"params__ddconfig__out_ch": 1}, "ddconfig.out_ch is 1, it must equal in_channels 3"),
        ({"params__ddconfig__heads": 4}, "ddconfig.heads is unknown"),
        ({"params__ddconfig__ch": None}, "wrong description of a VQGAN"),
        ({"params__n_embed": None}, "wrong description of a VQGAN"),
        ({"params__remap": "used.npy"}, "model.params.remap is 'used.npy'"),
        ({"target": "taming.models.vqgan.GumbelVQ"}, "model.target is 'taming.models.vqgan.GumbelVQ'"),
        ({"params__ddconfig": None}, "it has no model.params.ddconfig"),
        ({"params": None}, "it has no model.params.ddconfig"),
    ],
)
def test_a_model_yaml_of_another_network_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"model\.yaml[\s\S]*{message}"):
        VqganConfig.from_model_yaml(model_yaml(**changes))


@pytest.mark.parametrize("data", [None, [], "text", {"model": 3}])
def test_a_file_that_is_no_model_yaml_is_refused(data: Any) -> None:
    with pytest.raises(CheckpointError, match="describes no VQGAN"):
        VqganConfig.from_model_yaml(data)


# The library.


def test_a_missing_diffusers_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers.models.autoencoders.vq_model", None)
    with pytest.raises(MissingLibraryError, match=r'pip install --upgrade "dimo\[vqgan\]"'):
        Vqgan(SMALL)


BROKEN = (
    *(
        pytest.param(known, marks=pytest.mark.slow)
        for known in (
            "raise RuntimeError('operator torchvision::nms does not exist')",
            "import torchvision; torchvision.extension  # AttributeError: partially initialized module",
        )
    ),
    pytest.param(
        "raise type('Odd', (Exception,), {})('a kind of error that nobody foresaw')",
        marks=pytest.mark.slow,
    ),
)
USER = """
import importlib.util, json, sys
import dimo_maskgit.teacher, dimo_maskgit.vqgan
late = "diffusers" not in sys.modules
from dimo_maskgit.diffusers_model import load_vq_model
name = load_vq_model().__name__
found = importlib.util.find_spec("torchvision") is not None
print(json.dumps([late, name, found, [m for m in sys.modules if m.startswith("torchvision")]]))
"""


@pytest.mark.parametrize("statement", BROKEN)
def test_diffusers_is_loaded_late_and_beside_a_torchvision_that_does_not_load(
    tmp_path: Path, statement: str
) -> None:
    package, info = tmp_path / "torchvision", tmp_path / "torchvision-0.1.dist-info"
    package.mkdir()
    info.mkdir()
    (package / "__init__.py").write_text(f"import torchvision.half\n{statement}\n")
    (package / "half.py").write_text("")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", USER],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [True, "VQModel", True, []] == json.loads(done.stdout)
