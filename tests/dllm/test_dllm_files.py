"""Configurations and weight files: read strictly, and without any code of the folder."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dimo_core.errors import CheckpointError
from dimo_core.files.folder import Folder
from dimo_dllm.architecture import Architecture, Family
from dimo_dllm.files import Published
from dimo_dllm.network import DllmNetwork

from .conftest import FAMILIES, GOLDEN, table

each = pytest.mark.parametrize("family", FAMILIES)
INDEX = "model.safetensors.index.json"
SHARD = "model-0000{}-of-00002.safetensors"

LLADA: Mapping[str, Any] = {
    "vocab_size": 126464, "embedding_size": 126464, "d_model": 4096, "n_heads": 32, "n_kv_heads": 32,
    "n_layers": 32, "mlp_hidden_size": 12288, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
    "mask_token_id": 126336, "eos_token_id": 126081, "pad_token_id": 126081,
}  # fmt: skip
DREAM: Mapping[str, Any] = {
    "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
    "max_position_embeddings": 131072, "mask_token_id": 151666, "eos_token_id": 151643,
    "pad_token_id": 151643, "bos_token_id": 151643, "max_window_layers": 28,
}  # fmt: skip
SIZES: Mapping[Family, tuple[Mapping[str, Any], int, int, int]] = {
    "llada": (LLADA, 291, 8_015_581_184, 16_031_162_368),
    "dream": (DREAM, 339, 7_615_616_512, 15_231_233_024),
}


def read(folder: Path, family: Family = "llada") -> DllmNetwork:
    found = Published(family=family, folder=Folder(str(folder)))
    network = DllmNetwork(found.architecture)
    found.fill(network)
    return network


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The shards of LLaDA, to be spoilt."""
    shutil.copytree(GOLDEN / "llada", tmp_path / "llada")
    return tmp_path / "llada"


def shard(folder: Path, number: int) -> tuple[Path, dict[str, Tensor]]:
    path = folder / SHARD.format(number)
    return path, load_file(path)


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(folder)
    return str(caught.value)


@each
def test_the_published_sizes(family: Family) -> None:
    own, tensors, numbers, size = SIZES[family]
    a = Architecture.from_config(family, {**table(family, "config"), **own}, "config.json")
    with torch.device("meta"):
        made = DllmNetwork(a).bfloat16()
    parameters = list(made.parameters())
    assert len(parameters) == tensors
    assert sum(p.numel() for p in parameters) == numbers
    assert sum(p.nbytes for p in parameters) == size
    assert not list(made.buffers())


@pytest.mark.parametrize(
    ("family", "entry", "value"),
    [
        ("llada", "block_type", "sequential"),
        ("llada", "activation_type", "swiglu"),
        ("llada", "activation_type", None),
        ("llada", "layer_norm_type", "default"),
        ("llada", "layer_norm_with_affine", False),
        ("llada", "rope", False),
        ("llada", "rope_full_precision", False),
        ("llada", "include_bias", True),
        ("llada", "bias_for_layer_norm", True),
        ("llada", "attention_layer_norm", True),
        ("llada", "input_emb_norm", True),
        ("llada", "scale_logits", True),
        ("llada", "alibi", True),
        ("llada", "d_model", None),
        ("llada", "d_model", 33),
        ("llada", "n_layers", 0),
        ("llada", "n_heads", 3),
        ("llada", "n_kv_heads", 3),
        ("llada", "rope_theta", "large"),
        ("llada", "weight_tying", "no"),
        ("llada", "mask_token_id", 64),
        ("dream", "rope_scaling", {"type": "yarn"}),
        ("dream", "use_sliding_window", True),
        ("dream", "use_mrope", True),
        ("dream", "hidden_act", "tanh"),
        ("dream", "eos_token_id", 60),
    ],
)
def test_another_function_is_refused_in_one_line(family: Family, entry: str, value: Any) -> None:
    config = {**table(family, "config"), entry: value}
    with pytest.raises(CheckpointError) as caught:
        Architecture.from_config(family, config, "there/config.json")
    text = str(caught.value)
    assert text.startswith("there/config.json")
    assert "\n" not in text
    assert entry in text or "heads" in text


@each
def test_the_other_family_is_named(family: Family) -> None:
    other = "dream" if family == "llada" else "llada"
    with pytest.raises(CheckpointError, match=f"use --teacher {other}"):
        Architecture.from_config(family, table(other, "config"), "config.json")


def test_entries_that_have_others_in_their_place() -> None:
    config = table("llada", "config")
    made = Architecture.from_config("llada", {**config, "mlp_hidden_size": None}, "")
    assert made.mlp == 4 * 32, "mlp_ratio is read where mlp_hidden_size is null, and only there"
    assert Architecture.from_config("llada", config, "").mlp == 48
    assert Architecture.from_config("llada", {**config, "embedding_size": None}, "").columns == 60
    assert Architecture.from_config("llada", {**config, "n_kv_heads": None}, "").kv_heads == 4
    assert Architecture.from_config("llada", {**config, "multi_query_attention": True}, "").kv_heads == 1
    grouped = Architecture.from_config("llada", {**config, "block_group_size": 3, "n_layers": 8}, "")
    name = grouped.published_name("model.layers.7.mlp.down_proj.weight")
    assert name == "model.transformer.block_groups.2.1.ff_out.weight"


def test_every_tensor_of_the_shards_is_used_once(folder: Path) -> None:
    made, given = read(folder), {**shard(folder, 1)[1], **shard(folder, 2)[1]}
    names = [made.architecture.published_name(name) for name, _ in made.named_parameters()]
    assert sorted(names) == sorted(given)
    for name, parameter in zip(names, made.parameters(), strict=True):
        assert torch.equal(parameter, given[name])


def test_missing_and_unexpected_tensors_are_named(folder: Path) -> None:
    path, found = shard(folder, 2)
    gone = sorted(found)[0]
    index = json.loads((folder / INDEX).read_text())
    found["model.transformer.stranger"] = found.pop(gone)
    index["weight_map"]["model.transformer.stranger"] = index["weight_map"].pop(gone)
    save_file(found, path)
    (folder / INDEX).write_text(json.dumps(index))
    text = refusal(folder)
    assert f"missing: {gone}" in text
    assert "unexpected: model.transformer.stranger" in text


def test_a_tensor_of_another_shape_is_named(folder: Path) -> None:
    path, found = shard(folder, 1)
    name = sorted(found)[0]
    found[name] = found[name][:-1].clone()
    save_file(found, path)
    assert f"shape: {name} is" in refusal(folder)


def test_a_shard_that_holds_what_the_index_places_elsewhere_is_refused(folder: Path) -> None:
    path, found = shard(folder, 1)
    other = sorted(shard(folder, 2)[1].items())[0]
    save_file({**found, other[0]: other[1]}, path)
    assert "is not the shard that the index describes" in refusal(folder)


def test_a_damaged_or_absent_shard_is_named(folder: Path) -> None:
    path = folder / SHARD.format(2)
    path.write_bytes(path.read_bytes()[:-8])
    assert f"{path} is no safetensors file, or a damaged one" in refusal(folder)
    path.unlink()
    assert f"no file {path}" in refusal(folder)
    (folder / INDEX).unlink()
    assert "no weights in" in refusal(folder)
    (folder / "config.json").unlink()
    assert "no file" in refusal(folder)


def test_one_file_will_do_and_a_dtype_is_kept(folder: Path) -> None:
    whole = {**shard(folder, 1)[1], **shard(folder, 2)[1]}
    save_file({name: t.bfloat16() for name, t in whole.items()}, folder / "model.safetensors")
    (folder / INDEX).unlink()
    found = Published(family="llada", folder=Folder(str(folder)))
    for dtype in (torch.bfloat16, torch.float32):
        made = DllmNetwork(found.architecture).to(dtype)
        found.fill(made)
        assert {p.dtype for p in made.parameters()} == {dtype}
        first = whole["model.transformer.wte.weight"].bfloat16()
        assert torch.equal(made.model.embed_tokens.weight, first.to(dtype))
