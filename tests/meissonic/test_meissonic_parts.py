"""Image tokenizer, text tower and time conventions against values of the published code."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dimo_core.errors import CheckpointError, UsageError
from dimo_meissonic.images import ImageTokenizer
from dimo_meissonic.teacher import Meissonic
from dimo_meissonic.text import ROWS, PromptEncoder, load_tower, text_config, text_tensors
from dimo_meissonic.timestep import Clock
from dimo_samplers.maskgit import tokens_per_step

Tensors = Callable[[str], dict[str, Tensor]]
GOLDEN = Path(__file__).parents[1] / "data" / "meissonic"


def images(tensors: Tensors, grid: tuple[int, int] = (8, 8)) -> ImageTokenizer:
    config = json.loads((GOLDEN / "tiny_vq" / "vqvae" / "config.json").read_text())
    return ImageTokenizer(config, tensors("tiny_vq/vqvae/diffusion_pytorch_model"), grid, "golden")


def test_decoded_images_equal_the_reference(tensors: Tensors) -> None:
    io = tensors("tiny_vq/vq_io")
    decoded = images(tensors).decode(io["codes"].flatten(1))
    torch.testing.assert_close(decoded, io["decoded_clipped"], atol=1e-4, rtol=0)
    assert 0 == io["decoded_clipped"].min()  # the reference clips, so this shows that we do


def test_encoded_codes_equal_the_reference(tensors: Tensors) -> None:
    io = tensors("tiny_vq/vq_io")
    assert torch.equal(io["encoded_codes"].view(2, -1), images(tensors).encode(io["pixels"]))


def test_probabilities_decode_like_their_tokens_and_have_gradients(tensors: Tensors) -> None:
    io, tokenizer = tensors("tiny_vq/vq_io"), images(tensors)
    codes = io["codes"].flatten(1)
    p = torch.nn.functional.one_hot(codes, 64).float().requires_grad_()
    decoded = tokenizer.decode(p)
    torch.testing.assert_close(decoded.detach(), tokenizer.decode(codes), atol=1e-6, rtol=0)
    decoded.square().sum().backward()
    assert p.grad is not None
    assert bool((p.grad != 0).any())


def test_images_are_decoded_in_chunks_and_in_fp32(tensors: Tensors, monkeypatch: Any) -> None:
    io, tokenizer = tensors("tiny_vq/vq_io"), images(tensors)
    codes = io["codes"].flatten(1).repeat(3, 1)
    whole, codes_of = tokenizer.decode(codes), tokenizer.encode(io["pixels"].repeat(3, 1, 1, 1))
    sizes: list[int] = []
    for module in (tokenizer.model.decoder, tokenizer.model.encoder):
        module.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    monkeypatch.setattr("dimo_meissonic.images.SITES", 4 * 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = tokenizer.decode(codes)
        assert torch.equal(codes_of, tokenizer.encode(io["pixels"].repeat(3, 1, 1, 1)))
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=0)
    assert [4, 2, 4, 2] == sizes
    assert 1 == images(tensors, (64, 64)).chunk


def test_any_grid_is_decoded_and_encoded(tensors: Tensors) -> None:
    tokenizer = images(tensors, (3, 5))
    made = tokenizer.decode(torch.arange(15).view(1, 15))
    assert (1, 3, 6, 10) == made.shape
    assert (1, 15) == tokenizer.encode(made).shape
    with pytest.raises(UsageError, match=r"takes images of \[3, 6, 10\] .* not \[3, 10, 6\]"):
        tokenizer.encode(made.transpose(2, 3))


def test_a_config_that_is_no_image_tokenizer_is_refused(tensors: Tensors) -> None:
    weights = tensors("tiny_vq/vqvae/diffusion_pytorch_model")
    config = json.loads((GOLDEN / "tiny_vq" / "vqvae" / "config.json").read_text())
    with pytest.raises(CheckpointError, match="does not fit the network"):
        ImageTokenizer({**config, "latent_channels": 5}, weights, (8, 8), "golden")
    with pytest.raises(CheckpointError, match="impossible VQModel"):
        ImageTokenizer({**config, "norm_num_groups": 5}, weights, (8, 8), "golden")


def tower(tensors: Tensors) -> Any:
    config = json.loads((GOLDEN / "tiny_text" / "text_encoder" / "config.json").read_text())
    return load_tower(text_config(config, "golden"), tensors("tiny_text/text_encoder/model"), "golden")


class Written:
    """A tokenizer that gives ids that were written down, by number."""

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids

    def __call__(self, prompts: list[str] | str, **how: Any) -> Any:
        if isinstance(prompts, str):  # without any padding
            assert {"verbose": False} == how
            return type("Encoding", (), {"input_ids": self.ids[int(prompts)].tolist()})
        expected = {"padding": "max_length", "max_length": 77, "truncation": True, "return_tensors": "pt"}
        assert expected == how
        return type("Encoding", (), {"input_ids": self.ids[[int(prompt) for prompt in prompts]]})


def test_prompts_are_embedded_as_by_the_reference(tensors: Tensors) -> None:
    io = tensors("tiny_text/text_io")
    encoder = PromptEncoder(tower(tensors), Written(io["input_ids"]), device=torch.device("cpu"), remember=2)
    text, pooled = encoder(["0", "1", "2", "1"])
    rows = [0, 1, 2, 1]
    torch.testing.assert_close(text, io["encoder_hidden_states"][rows], atol=1e-4, rtol=0)
    torch.testing.assert_close(pooled, io["pooled_projections"][rows], atol=1e-4, rtol=0)
    assert not torch.allclose(text, io["last_hidden_state"][rows], atol=1e-2)


def encoder(tensors: Tensors, rows: int | None, remember: int = 100) -> PromptEncoder:
    """Of 40 prompts by number; as many ids as the golden ones have."""
    draws = torch.Generator().manual_seed(0)
    golden = tensors("tiny_text/text_io")["input_ids"]
    ids = golden[torch.arange(40) % len(golden)].clone()
    ids[:, 1:20] = torch.randint(int(golden.max()) - 2, (40, 19), generator=draws)
    return PromptEncoder(
        tower(tensors), Written(ids), device=torch.device("cpu"), remember=remember, rows=rows
    )


@pytest.mark.parametrize("rows", [1, 4, 16])
def test_a_prompt_alone_and_in_a_batch_has_the_same_embedding_to_the_last_bit(
    tensors: Tensors, rows: int
) -> None:
    everything = [str(number) for number in range(40)]
    together, one_by_one = encoder(tensors, rows), encoder(tensors, rows)
    assert rows == together.rows
    text, pooled = together(everything)
    for number in (0, 1, 5, 15, 16, 22, 39):
        alone = one_by_one([str(number)])
        assert torch.equal(alone[0][0], text[number])
        assert torch.equal(alone[1][0], pooled[number])
    # As after a resumption: others are known already, and the order is another.
    later = encoder(tensors, rows)
    later(everything[7:20])
    again = later(everything[::-1])
    assert torch.equal(text, again[0].flip(0))
    assert torch.equal(pooled, again[1].flip(0))
    torch.testing.assert_close(encoder(tensors, 1)(everything)[1], pooled, atol=1e-5, rtol=1e-5)


def test_the_host_reads_nothing_of_an_embedding(tensors: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    """On meta tensors whatever waits for a device is an error; so is autocast, which is off in any case."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    prompts = encoder(tensors, 1)
    prompts.tower.to("meta")
    prompts.device = torch.device("meta")
    text, pooled = prompts(["0", "1", "0"])
    assert {"meta"} == {text.device.type, pooled.device.type}
    assert 3 == len(text) == len(pooled)


def test_passes_have_one_shape_and_prompts_are_not_passed_twice(tensors: Tensors) -> None:
    prompts = encoder(tensors, 4)
    assert 4 == prompts.rows
    shapes: list[tuple[int, ...]] = []
    prompts.tower.register_forward_pre_hook(
        lambda _module, _args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    prompts(["0", "1", "0", "2", "3", "4", "1"])
    assert [(4, 77)] * 2 == shapes
    prompts(["4", "0", "5"])
    assert [(4, 77)] * 3 == shapes
    kept = [tensor for pair in prompts._known.values() for tensor in pair]
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in kept)


def test_a_cpu_takes_one_prompt_in_a_pass_through_a_large_tower(
    tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ROWS == encoder(tensors, None).rows
    monkeypatch.setattr("dimo_meissonic.text.SMALL", 1)
    assert 1 == encoder(tensors, None).rows


@pytest.mark.parametrize("fault", ["row", "neighbours"])
def test_where_an_embedding_depends_on_its_row_prompts_pass_one_at_a_time(
    tensors: Tensors, fault: str
) -> None:
    prompts = encoder(tensors, 4)

    def disturb(_module: Any, _args: Any, out: Any) -> Any:
        if len(out.text_embeds) > 1:
            shift = out.text_embeds.mean() if fault == "neighbours" else torch.arange(4.0)[:, None]
            out.text_embeds = out.text_embeds + 1e-3 * shift
        return out

    prompts.tower.register_forward_hook(disturb)
    assert 1 == prompts.rows
    expected = encoder(tensors, 1)(["3", "1", "2"])
    assert all(torch.equal(a, b) for a, b in zip(expected, prompts(["3", "1", "2"]), strict=True))


def test_the_text_tower_of_a_whole_clip_is_taken_out_of_it(
    tensors: Tensors, tmp_path: Path, options: dict[str, Any]
) -> None:
    """As laion/CLIP-ViT-H-14-laion2B-s32B-b79K: text_config within, image tower, position tables."""
    config = json.loads((GOLDEN / "tiny_text" / "text_encoder" / "config.json").read_text())
    inner = {name: value for name, value in config.items() if name != "projection_dim"}
    whole = {"model_type": "clip", "text_config": inner, "vision_config": {}, "projection_dim": 32}
    (tmp_path / "config.json").write_text(json.dumps(whole))
    weights = {name: t + 0.01 for name, t in tensors("tiny_text/text_encoder/model").items()}
    others = {"vision_model.x": torch.zeros(2), "logit_scale": torch.zeros(())}
    others["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file({**weights, **others}, tmp_path / "model.safetensors")
    assert weights.keys() == text_tensors({**weights, **others}).keys()
    own = Meissonic(**options).encode_conditions(["a red cat"])
    changed = Meissonic(**options, text_encoder=str(tmp_path)).encode_conditions(["a red cat"])
    assert own["text"].shape == changed["text"].shape
    assert not torch.equal(own["text"], changed["text"])
    assert not torch.equal(own["pooled"], changed["pooled"])


def test_the_timestep_is_zero_unless_asked_otherwise() -> None:
    assert torch.equal(torch.zeros(3), Clock().timestep(torch.tensor([0.0, 0.5, 1.0])))


def test_the_mask_ratio_is_told_in_thousandths() -> None:
    ratio = torch.tensor([0.02, 0.777, 1.0])
    assert torch.equal(ratio * 1000, Clock(convention="mask_ratio").timestep(ratio))


@pytest.mark.parametrize("steps", [1, 2, 8, 16, 48, 64])
def test_the_step_index_is_found_back_from_the_share_of_masked_tokens(steps: int) -> None:
    clock, left = Clock(convention="step_index", steps=steps), 4096
    told = []
    for count in tokens_per_step(4096, steps, "cosine", "amused"):
        told.append(int(clock.timestep(torch.tensor([left / 4096]))))
        left -= count
    assert list(range(steps - 1, -1, -1)) == told


def test_the_step_index_stays_within_the_steps() -> None:
    told = Clock(convention="step_index", steps=8).timestep(torch.tensor([0.0, 1e-3, 1.0]))
    assert [0.0, 0.0, 7.0] == told.tolist()
