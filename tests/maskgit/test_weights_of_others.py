"""Weights as trainers leave them: averages beside raw ones, prefixes, shards, numbers that are not finite."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dimo_core.cli import main as dimo
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import read_card
from dimo_maskgit.teacher import MaskGit


@pytest.fixture(scope="module")
def weights() -> Mapping[str, Tensor]:
    return MaskGit().network().state_dict()


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def offset(weights: Mapping[str, Tensor]) -> float:
    """By how much the converted generator in ``o`` differs from the teacher."""
    name = "pos_emb"
    return float((load_file("o/generator.safetensors")[name] - weights[name]).mean())


@pytest.mark.parametrize(("key", "taken"), [("", 1.0), ("::ema", 5.0), ("::model", 1.0)])
def test_the_set_that_is_named_becomes_the_generator(
    weights: Mapping[str, Tensor], key: str, taken: float, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = {name: {k: v + d for k, v in weights.items()} for name, d in (("model", 1), ("ema", 5))}
    torch.save(sets, "c.pt")
    assert 0 == dimo(["convert", "--generator.init", f"c.pt{key}", "--out", "o"])
    assert taken == pytest.approx(offset(weights), abs=1e-3)
    assert f"{Path.cwd()}/c.pt{key}" == read_card(Folder("o"))["converted_from"]
    assert ("'model' is taken, and there is 'ema' too" in capsys.readouterr().err) == (not key)


def test_a_run_that_starts_from_a_named_set_finds_its_file(weights: Mapping[str, Tensor]) -> None:
    torch.save({"model": dict(weights), "ema": dict(weights)}, "c.pt")
    assert 0 == dimo(["run", "--generator.init", "c.pt::ema", "--dry-run"])


@pytest.mark.parametrize("prefix", ["model.", "model._orig_mod."])
def test_a_checkpoint_of_lightning_is_read(weights: Mapping[str, Tensor], prefix: str) -> None:
    torch.save({"state_dict": {f"{prefix}{k}": v + 1 for k, v in weights.items()}}, "l.ckpt")
    assert 0 == dimo(["convert", "--generator.init", "l.ckpt", "--out", "o"])
    assert 1 == pytest.approx(offset(weights), abs=1e-3)


def test_a_generator_in_shards_is_read_by_its_index(weights: Mapping[str, Tensor]) -> None:
    names, places = sorted(weights), {}
    for i, part in enumerate((names[:9], names[9:]), 1):
        file = f"model-0000{i}-of-00002.safetensors"
        save_file({name: weights[name] + 1 for name in part}, file)
        places |= dict.fromkeys(part, file)
    Path("model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert 0 == dimo(["convert", "--generator.init", "model.safetensors.index.json", "--out", "o"])
    assert 1 == pytest.approx(offset(weights), abs=1e-3)


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_weights_that_are_not_finite_are_neither_converted_nor_drawn_from(
    weights: Mapping[str, Tensor], value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == dimo(
        ["convert", "--generator.r_init", "0.6", "--generator.init", good(weights), "--out", "o"]
    )
    broken = {name: tensor.clone() for name, tensor in weights.items()}
    broken["pos_emb"][0, 0, 0] = value
    torch.save(broken, "bad.pt")
    assert 1 == dimo(["convert", "--generator.init", "bad.pt", "--out", "p"])
    assert (
        "bad.pt: 1 tensors of its weights hold NaN or infinity, such as 'pos_emb'" in capsys.readouterr().err
    )
    assert not Path("p/generator.yaml").exists()

    spoil(Path("o"), broken)
    assert 1 == dimo(["sample", "o", "-n", "4", "--out", "s", "--device", "cpu"])
    assert (
        "the logits are not finite, and nothing can be drawn from them: 1 tensors" in capsys.readouterr().err
    )
    assert not Path("s/samples.jsonl").exists()


def good(weights: Mapping[str, Tensor]) -> str:
    torch.save(dict(weights), "good.pt")
    return "good.pt"


def spoil(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Put other weights into a generator folder, as an older version would have written them."""
    import yaml

    from dimo_core.files.weights import encode_tensors, sha256

    card = yaml.safe_load((folder / "generator.yaml").read_text())
    data = encode_tensors(weights)
    (folder / "generator.safetensors").write_bytes(data)
    card["sha256"]["generator.safetensors"] = sha256(data)
    (folder / "generator.yaml").write_text(yaml.safe_dump(card))
