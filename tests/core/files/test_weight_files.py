"""Weights in shards and sets of weights in a file: what a path names."""

import json
from pathlib import Path

import fsspec
import pytest
import torch
from safetensors.torch import save_file

from dimo_core.errors import CheckpointError
from dimo_core.files.foreign import read_foreign
from dimo_core.files.weight_files import is_weights_file, split_key

WEIGHTS = {f"layer.{i}": torch.full((3,), float(i)) for i in range(4)}


def sharded(folder: Path, kind: str = "safetensors") -> Path:
    """The weights in two shards, and the index of these."""
    places = {}
    for i, names in enumerate((["layer.0", "layer.1"], ["layer.2", "layer.3"]), 1):
        file = f"model-0000{i}-of-00002.{kind}"
        part = {f"module.{name}": WEIGHTS[name] for name in names}
        save_file(part, folder / file) if kind == "safetensors" else torch.save(part, folder / file)
        places |= dict.fromkeys(part, file)
    index = folder / f"model.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 48}, "weight_map": places}))
    return index


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_an_index_stands_for_its_shards(tmp_path: Path, kind: str) -> None:
    index = sharded(tmp_path, kind)
    file = read_foreign(str(index))
    assert {name: (3,) for name in WEIGHTS} == file.shapes()
    assert all(torch.equal(WEIGHTS[name], tensor) for name, tensor in file.state_dict().items())
    before = file.sha256
    data = bytearray((tmp_path / f"model-00002-of-00002.{kind}").read_bytes())
    data[data.index(bytes(WEIGHTS["layer.3"].view(torch.uint8).tolist()))] ^= 1
    (tmp_path / f"model-00002-of-00002.{kind}").write_bytes(data)
    assert before != read_foreign(str(index)).sha256
    if kind == "bin":  # its container has checksums
        with pytest.raises(CheckpointError, match="is damaged: the checksum of storage"):
            read_foreign(str(index)).state_dict()


def test_shards_are_fetched_beside_a_remote_index(tmp_path: Path) -> None:
    sharded(tmp_path)
    for path in tmp_path.iterdir():
        with fsspec.open(f"memory://sharded/{path.name}", "wb") as file:
            file.write(path.read_bytes())
    url = "memory://sharded/model.safetensors.index.json"
    assert WEIGHTS.keys() == read_foreign(url).state_dict().keys()


def test_one_shard_is_refused_and_the_index_named(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        read_foreign(str(tmp_path / "model-00001-of-00002.safetensors"))
    assert str(caught.value).endswith(f"is one of 2 shards. Give their index, which names them all: {index}")
    save_file(WEIGHTS, tmp_path / "model-00001-of-00001.safetensors")
    assert (
        WEIGHTS.keys() == read_foreign(str(tmp_path / "model-00001-of-00001.safetensors")).state_dict().keys()
    )


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no file .*model-00002-of-00002.safetensors"):
        read_foreign(str(index))


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"x": "../secret.safetensors"}, "'x' is said to be in '../secret.safetensors', which names no file"),
        ({"x": "/etc/passwd"}, "names no file beside the index"),
        ({"x": 3}, "names no file beside the index"),
        ({"x": "model-00001-of-00002.safetensors"}, "lacks what its index .* promises: 'x'"),
        ({}, "an index of shards without any tensor"),
        ({"x": "model.safetensors.index.json"}, "neither safetensors nor"),
        ([], "neither safetensors nor a file of torch.save"),
    ],
)
def test_a_wrong_index_is_refused(tmp_path: Path, places: object, message: str) -> None:
    index = sharded(tmp_path)
    index.write_text(json.dumps({"weight_map": places}))
    with pytest.raises(CheckpointError, match=message):
        read_foreign(str(index))


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("a.pth::ema", ("a.pth", "ema")),
        ("hf://me/a.pth?download=true::model_ema", ("hf://me/a.pth?download=true", "model_ema")),
        ("./folder::ema", ("./folder", "ema")),
        ("a.pth", ("a.pth", "")),
        ("a.pth::", ("a.pth::", "")),
        ("simplecache::https://host/a.pth", ("simplecache::https://host/a.pth", "")),
        ("zip://a.pth::b.zip", ("zip://a.pth::b.zip", "")),
    ],
)
def test_a_key_is_told_from_a_chain_of_addresses(url: str, parts: tuple[str, str]) -> None:
    assert parts == split_key(url)


def test_names_of_weights_files() -> None:
    files = ("a.pth", "a.bin::ema", "a.safetensors.index.json", "a.bin.index.json", "https://h/a.pt?x=1")
    assert all(map(is_weights_file, files))
    assert not any(map(is_weights_file, ("a", "a.pth/", "config.json", "a.index.json", "https://h/a?x=b.pt")))
