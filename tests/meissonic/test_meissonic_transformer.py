"""The transformer against values of the published code, and what the goldens do not show."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from dimo_core.engine.part_state import decayed
from dimo_core.files.weights import assign
from dimo_core.method.process import perturb
from dimo_meissonic.architecture import Architecture
from dimo_meissonic.timestep import Clock
from dimo_meissonic.transformer import MeissonicTransformer

Tensors = Callable[[str], dict[str, Tensor]]
GOLDEN = Path(__file__).parents[1] / "data" / "meissonic"
PUBLISHED = {
    "attention_head_dim": 128,
    "num_attention_heads": 8,
    "num_layers": 14,
    "num_single_layers": 28,
    "axes_dims_rope": [16, 56, 56],
    "joint_attention_dim": 1024,
    "pooled_projection_dim": 1024,
    "vocab_size": 8256,
    "codebook_size": 8192,
    "downsample": True,
    "upsample": True,
    "guidance_embeds": False,
    "in_channels": 64,
    "patch_size": 1,
}
each_model = pytest.mark.parametrize("model", ["tiny_down", "tiny_flat"])


class Told(Clock):
    """Says a timestep that was written down."""

    def __init__(self, timestep: Tensor) -> None:
        super().__init__()
        object.__setattr__(self, "told", timestep)

    def timestep(self, mask_ratio: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.told.float().expand(len(mask_ratio))  # type: ignore[attr-defined]


def load(model: str, tensors: Tensors) -> MeissonicTransformer:
    config = json.loads((GOLDEN / model / "transformer" / "config.json").read_text())
    network = MeissonicTransformer(**Architecture.from_config(config, model).as_config())
    assign(network, tensors(f"{model}/transformer/diffusion_pytorch_model"), model)
    height, width = tensors(f"{model}/inputs")["tokens"].shape[1:]
    network.grid = (height, width)
    return network.eval()


def inputs(model: str, tensors: Tensors) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor], Tensor]:
    """Golden inputs, tokens [B, L], conditions, and mask ratios that do not matter."""
    i = tensors(f"{model}/inputs")
    c = {"text": i["encoder_hidden_states"], "pooled": i["pooled_projections"], "micro": i["micro_conds"]}
    return i, i["tokens"].flatten(1), c, torch.full((len(i["tokens"]),), 0.5)


def as_sequence(image: Tensor) -> Tensor:
    """[B, V, H, W], the reference's layout, to [B, L, V]."""
    return image.flatten(2).transpose(1, 2)


def close(expected: Tensor, actual: Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


@each_model
@pytest.mark.parametrize(("timestep", "atol"), [("zero", 1e-4), ("step5", 1e-4), ("ratio", 5e-2)])
def test_logits_equal_the_reference_at_each_timestep(
    model: str, timestep: str, atol: float, tensors: Tensors
) -> None:
    network = load(model, tensors)
    i, x, c, ratio = inputs(model, tensors)
    network.clock = Told(i[f"timestep_{timestep}"])
    with torch.no_grad():
        logits = network.logits(x, c, mask_ratio=ratio)
    close(as_sequence(tensors(f"{model}/outputs")[f"logits_{timestep}"]), logits, atol)


@each_model
def test_intermediate_values_equal_the_reference(model: str, tensors: Tensors) -> None:
    network = load(model, tensors)
    expected = tensors(f"{model}/outputs")
    i, x, c, ratio = inputs(model, tensors)
    seen: dict[str, Any] = {}
    for name, module in {"cond_embed_out": network.cond_embed, "rope": network.pos_embed}.items():
        module.register_forward_hook(lambda *hooked, name=name: seen.update({name: hooked[2]}))
    with torch.no_grad():
        network(x, c, mask_ratio=ratio)
        close(as_sequence(expected["embed_out"]), network.embed(x))
        for timestep, atol in {"zero": 1e-4, "step5": 1e-4, "ratio": 5e-2}.items():
            network.clock = Told(i[f"timestep_{timestep}"])
            close(expected[f"temb_{timestep}"], network.modulation(c, ratio), atol)
    close(expected["cond_embed_out"], seen["cond_embed_out"])
    close(expected["rope_cos"], seen["rope"][0])
    close(expected["rope_sin"], seen["rope"][1])


@each_model
@pytest.mark.parametrize("checkpointing", [False, True])
def test_noisy_logits_and_gradient_norms_equal_the_reference(
    model: str, checkpointing: bool, tensors: Tensors
) -> None:
    network = load(model, tensors)
    network.gradient_checkpointing = checkpointing
    i, x, c, ratio = inputs(model, tensors)
    e = perturb(network.embed(x), float(i["noise_sigma"]), as_sequence(i["noise"]))
    logits = network.head(network(e, c, mask_ratio=ratio))
    close(as_sequence(tensors(f"{model}/outputs")["logits_noise"]), logits.detach())
    ((logits * as_sequence(i["grad_probe"])).sum() / logits.numel()).backward()
    norms = {name: float(p.grad.norm()) for name, p in network.named_parameters() if p.grad is not None}
    expected = json.loads((GOLDEN / model / "grad_norms.json").read_text())
    assert expected == pytest.approx(norms, rel=1e-3)


def test_checkpointing_changes_no_bit_and_is_needed_for_gradients_only(tensors: Tensors) -> None:
    network = load("tiny_down", tensors)
    _, x, c, ratio = inputs("tiny_down", tensors)
    calls: list[bool] = []
    network.transformer_blocks[0].register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    found = []
    for again in (False, True):
        network.enable_gradient_checkpointing() if again else network.disable_gradient_checkpointing()
        network.zero_grad()
        logits = network.logits(x, c, mask_ratio=ratio)
        logits.square().sum().backward()
        found.append([logits.detach(), *(p.grad for p in network.parameters())])
    assert [True] * 3 == calls
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    with torch.no_grad():
        network.logits(x, c, mask_ratio=ratio)
    assert [False] == calls[3:]


@each_model
def test_names_and_shapes_are_the_published_ones(model: str, tensors: Tensors) -> None:
    expected = json.loads((GOLDEN / model / "state_dict_shapes.json").read_text())
    shapes = {name: list(t.shape) for name, t in load(model, tensors).state_dict().items()}
    assert expected["state_dict_shapes"] == shapes
    assert expected["parameters"] == sum(p.numel() for p in load(model, tensors).parameters())


def test_the_published_network_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        network = MeissonicTransformer(**Architecture.from_config(PUBLISHED, "config").as_config())
    assert 1_006_946_304 == sum(p.numel() for p in network.parameters())
    assert 867 == len(network.state_dict())
    assert [] == list(network.buffers())
    frozen = [n for n, _ in network.named_parameters() if n.startswith(("embed.", "mlm_layer."))]
    assert 6 == len(frozen)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_published_folders_survive_diffusers(tmp_path: Path, tensors: Tensors) -> None:
    folder = GOLDEN / "tiny_down" / "transformer"
    network = MeissonicTransformer.from_pretrained(folder)
    network.save_pretrained(tmp_path)
    before, after = (json.loads((f / "config.json").read_text()) for f in (folder, tmp_path))
    assert "Transformer2DModel" == after["_class_name"]
    own = {"_diffusers_version", "_name_or_path"}
    assert {k: v for k, v in before.items() if k not in own} == {
        k: v for k, v in after.items() if k not in own
    }
    again = MeissonicTransformer.from_pretrained(tmp_path).state_dict()
    published = tensors("tiny_down/transformer/diffusion_pytorch_model")
    assert published.keys() == again.keys()
    assert all(torch.equal(published[name], again[name]) for name in published)


@pytest.mark.parametrize("grid", [(8, 6), (2, 16), (7, 8), (8, 5), (3, 3), (1, 1)])
def test_a_network_with_down_sampling_takes_any_grid(grid: tuple[int, int], tensors: Tensors) -> None:
    """An odd side is a side with one more row, whose embeddings are zero and whose logits are cut off."""
    network = load("tiny_down", tensors)
    _, _, c, ratio = inputs("tiny_down", tensors)
    height, width = grid
    network.grid = grid
    x = torch.arange(2 * height * width).view(2, -1) % 64
    e = network.embed(x)
    logits = network.head(network(e, c, mask_ratio=ratio))
    assert (2, height * width, 64) == logits.shape
    whole = torch.nn.functional.pad(e.unflatten(1, grid), (0, 0, 0, width % 2, 0, height % 2))
    network.grid = (height + height % 2, width + width % 2)
    padded = network.head(network(whole.flatten(1, 2), c, mask_ratio=ratio)).unflatten(1, network.grid)
    torch.testing.assert_close(padded[:, :height, :width].flatten(1, 2), logits, atol=1e-5, rtol=0)


def test_rows_and_columns_are_told_apart(tensors: Tensors) -> None:
    network = load("tiny_flat", tensors)
    _, x, c, ratio = inputs("tiny_flat", tensors)
    logits = {}
    for grid in ((4, 6), (6, 4), (2, 12)):
        network.grid = grid
        logits[grid] = network.logits(x, c, mask_ratio=ratio).detach()
    assert not torch.allclose(logits[4, 6], logits[6, 4])
    assert not torch.allclose(logits[4, 6], logits[2, 12])


def test_without_a_grid_any_square_is_taken_and_nothing_else(tensors: Tensors) -> None:
    network = load("tiny_down", tensors)
    _, x, c, ratio = inputs("tiny_down", tensors)
    expected = network.logits(x, c, mask_ratio=ratio)
    network.grid = None
    assert torch.equal(expected, network.logits(x, c, mask_ratio=ratio))
    with pytest.raises(ValueError, match="do not fill a grid of 7 x 7; set grid"):
        network.logits(x[:, :60], c, mask_ratio=ratio)


def test_half_precision_networks_take_conditions_in_full_precision(tensors: Tensors) -> None:
    network = load("tiny_down", tensors)
    _, x, c, ratio = inputs("tiny_down", tensors)
    with torch.no_grad():
        expected = network.logits(x, c, mask_ratio=ratio)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = network.logits(x, c, mask_ratio=ratio)
        network.to(torch.bfloat16)
        half = network.logits(x, c, mask_ratio=ratio)
    assert torch.bfloat16 == mixed.dtype == half.dtype
    scale = expected.abs().max()
    assert (mixed.float() - expected).abs().max() < 0.05 * scale
    assert (half.float() - expected).abs().max() < 0.1 * scale


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": None}, "no num_layers"),
        ({"upsample": None}, "no upsample"),
        ({"upsample": False}, "must agree"),
        ({"guidance_embeds": True}, "guidance_embeds must be false"),
        ({"pooled_projection_dim": 768}, "is not the width 1024"),
        ({"axes_dims_rope": [16, 56, 57]}, "does not add up"),
        ({"axes_dims_rope": [15, 57, 56]}, "odd entry"),
        ({"vocab_size": 8192}, "leaves no id"),
        ({"num_attention_heads": 0}, "impossible network"),
    ],
)
def test_a_config_of_another_network_is_refused(change: dict[str, Any], message: str) -> None:
    from dimo_core.errors import CheckpointError

    config = {name: value for name, value in {**PUBLISHED, **change}.items() if value is not None}
    with pytest.raises(CheckpointError, match=message):
        Architecture.from_config(config, "config.json")


DECAYED = [
    "embed.conv",
    "down_block.downsample.conv",
    "project_to_hidden",
    "context_embedder",
    "cond_embed.linear_1",
    "cond_embed.linear_2",
    "time_text_embed.text_embedder.linear_1",
    "time_text_embed.text_embedder.linear_2",
    "time_text_embed.timestep_embedder.linear_1",
    "time_text_embed.timestep_embedder.linear_2",
    "transformer_blocks.*.norm1.linear",
    "transformer_blocks.*.norm1_context.linear",
    "transformer_blocks.*.attn.to_q",
    "transformer_blocks.*.attn.to_k",
    "transformer_blocks.*.attn.to_v",
    "transformer_blocks.*.attn.to_out.0",
    "transformer_blocks.*.attn.to_add_out",
    "transformer_blocks.*.attn.add_q_proj",
    "transformer_blocks.*.attn.add_k_proj",
    "transformer_blocks.*.attn.add_v_proj",
    "transformer_blocks.*.ff.net.0.proj",
    "transformer_blocks.*.ff.net.2",
    "transformer_blocks.*.ff_context.net.0.proj",
    "transformer_blocks.*.ff_context.net.2",
    "single_transformer_blocks.*.norm.linear",
    "single_transformer_blocks.*.attn.to_q",
    "single_transformer_blocks.*.attn.to_k",
    "single_transformer_blocks.*.attn.to_v",
    "single_transformer_blocks.*.proj_mlp",
    "single_transformer_blocks.*.proj_out",
    "project_from_hidden",
    "up_block.upsample.conv",
    "mlm_layer.conv1",
    "mlm_layer.conv2",
]
SPARED = [
    "embed.embeddings",
    "embed.layer_norm",
    "down_block.downsample.norm",
    "project_to_hidden_norm",
    "encoder_proj_layer_norm",
    "transformer_blocks.*.attn.norm_q",
    "transformer_blocks.*.attn.norm_k",
    "transformer_blocks.*.attn.norm_added_q",
    "transformer_blocks.*.attn.norm_added_k",
    "single_transformer_blocks.*.attn.norm_q",
    "single_transformer_blocks.*.attn.norm_k",
    "project_from_hidden_norm",
    "up_block.upsample.norm",
    "mlm_layer.layer_norm",
]


def test_weight_decay_spares_the_table_norms_and_biases_and_no_embedder(tensors: Tensors) -> None:
    """``context_embedder`` and the embedders of time and condition are linear layers."""
    network = load("tiny_down", tensors)
    weights = decayed(network)
    found: dict[bool, set[str]] = {True: set(), False: set()}
    for name, p in network.named_parameters():
        found[p in weights].add(re.sub(r"blocks\.\d+", "blocks.*", name))
    assert found[True] == {f"{module}.weight" for module in DECAYED}
    assert {name for name in found[False] if not name.endswith(".bias")} == {
        f"{module}.weight" for module in SPARED
    }
