"""Parts whose weights lie in shards: an index and the files that it names."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dimo_core.errors import CheckpointError
from dimo_meissonic.files import TEXT, TRANSFORMER, VQVAE
from dimo_meissonic.parts import Parts


def shard(folder: Path, stem: str, index: str) -> None:
    """Weights of a part, shared out over two files."""
    whole, places = folder / f"{stem}.safetensors", {}
    tensors = load_file(whole)
    names = sorted(tensors)
    for i in (0, 1):
        file = f"{stem}-0000{i + 1}-of-00002.safetensors"
        part = names[i::2]
        save_file({name: tensors[name] for name in part}, folder / file)
        places |= dict.fromkeys(part, file)
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    whole.unlink()


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    to = shutil.copytree(published, tmp_path / "sharded")
    shard(to / TRANSFORMER, "diffusion_pytorch_model", "diffusion_pytorch_model.safetensors.index.json")
    shard(to / VQVAE, "diffusion_pytorch_model", "diffusion_pytorch_model.safetensors.index.fp16.json")
    shard(to / TEXT, "model", "model.safetensors.index.json")
    return to


def test_every_part_is_read_by_its_index(published: Path, folder: Path) -> None:
    whole, sharded = (Parts(checkpoint=str(path), text_encoder=None) for path in (published, folder))
    sharded.check()
    for a, b in (
        (whole.transformer(), sharded.transformer()),
        (whole.published.part(VQVAE), sharded.published.part(VQVAE)),
        (whole.text(), sharded.text()),
    ):
        expected, found = a.tensors(), b.tensors()
        assert expected.keys() == found.keys()
        assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    assert whole.read_network(str(published)).keys() == whole.read_network(str(folder)).keys()


def test_the_digest_is_that_of_all_shards(folder: Path) -> None:
    before = Parts(checkpoint=str(folder), text_encoder=None).transformer().digest()
    file = folder / TRANSFORMER / "diffusion_pytorch_model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    assert before != Parts(checkpoint=str(folder), text_encoder=None).transformer().digest()


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / TRANSFORMER / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no file .*-00002-of-00002"):
        Parts(checkpoint=str(folder), text_encoder=None).transformer().tensors()
