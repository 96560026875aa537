"""Exports of real generators in every form, loaded where there is no dimo, beside `dimo sample`: minutes."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dimo_core.choice import Choice
from dimo_core.cli import main
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import save_generator
from dimo_core.registry import Registry, built
from dimo_core.sharing import load

pytestmark = pytest.mark.slow

PICTURES, TEXT = "maskgit", "text"
COUNT, SEED = 10, 3


def generator(place: Path, teacher: str, name: str = "one_step", **options: object) -> Path:
    """A generator folder whose weights are the teacher's, a little changed."""
    registry = Registry.discover()
    made = built(registry, "teacher", Choice(teacher))
    module = built(registry, "generator", Choice(name, options)).build(made)
    with torch.no_grad():
        for i, parameter in enumerate(p for p in module.backbone.parameters() if p.requires_grad):
            parameter.add_(0.02 * torch.arange(parameter.numel()).add(i).sin().view_as(parameter))
    config = {"teacher": {"name": teacher}, "generator": {"name": name, **options}}
    save_generator(Folder(str(place)), module.eval(), made, config, {"step": 1, "seed": 0})
    return place


def exported(folder: Path, form: str, out: Path, *more: str) -> Path:
    assert 0 == main(["export", str(folder), "--format", form, "--out", str(out), *more])
    return out


def sampled(folder: Path, out: Path, *more: str) -> list[list[int]]:
    """The tokens of `dimo sample`."""
    drawn = ["--count", str(COUNT), "--seed", str(SEED), "--device", "cpu", "--out", str(out)]
    assert 0 == main(["sample", str(folder), *drawn, *more])
    return [json.loads(line)["tokens"] for line in (out / "samples.jsonl").read_text().splitlines()]


def without_dimo(folder: Path, out: Path) -> None:
    """Run the loader where nothing of dimo, nor what dimo needs besides torch and safetensors, is found."""
    hidden = ["dimo_core", "dimo_maskgit", "attrs", "attr", "jaxtyping", "loguru", "PIL", "jinja2"]
    script = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({hidden}));"
        f"sys.argv = ['load.py', '--count', '{COUNT}', '--seed', '{SEED}', '--out', {str(out)!r}];"
        f"runpy.run_path({str(folder / 'load.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert 0 == done.returncode, done.stderr


def pixels(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(folder / f"{i:05d}.png")).astype(int) for i in range(COUNT)])


@pytest.mark.parametrize("form", ["folder", "torch-export", "onnx"])
def test_every_form_draws_the_pictures_of_dimo_sample(tmp_path, form):
    if form == "onnx" and importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("onnxruntime is not installed")
    made = generator(tmp_path / "generator", PICTURES)
    out = exported(made, form, tmp_path / "out", "--batch-size", "4")
    tokens = sampled(made, tmp_path / "own")
    assert tokens == load.Model(out).sample(count=COUNT, seed=SEED).tokens.tolist()
    without_dimo(out, tmp_path / "loaded")
    assert abs(pixels(tmp_path / "own") - pixels(tmp_path / "loaded")).max() <= (1 if form == "onnx" else 0)
    places = [str(tmp_path), os.getcwd(), str(Path(torch.__file__).parent)]
    found = [path.name for path in out.iterdir() if any(p.encode() in path.read_bytes() for p in places)]
    assert [] == found
    facts = json.loads((out / "export.json").read_text())
    assert (form == "onnx") == ("onnxruntime" in facts["compared"])
    assert "E. Alpaydin" in (out / "README.md").read_text()


def test_dimo_reads_an_export_as_a_generator(tmp_path):
    made = generator(tmp_path / "generator", PICTURES)
    out = exported(made, "folder", tmp_path / "out", "--batch-size", "4")
    assert sampled(made, tmp_path / "own") == sampled(out, tmp_path / "again")


@pytest.mark.parametrize("order", ["random", "halton", "confidence"])
def test_a_generator_of_few_steps_has_all_of_them_in_its_graph(tmp_path, order):
    made = generator(tmp_path / "generator", PICTURES, "few_step", steps=3, order=order)
    out = exported(made, "folder", tmp_path / "out", "--batch-size", "2")
    assert sampled(made, tmp_path / "own") == load.Model(out).sample(count=COUNT, seed=SEED).tokens.tolist()
    noise = [each["name"] for each in json.loads((out / "export.json").read_text())["inputs"]["noise"]]
    assert {"x_theta", "x_theta1", "x_theta2"} < {*noise}
    one = exported(made, "folder", tmp_path / "one", "--batch-size", "2", "--steps", "1")
    tokens = sampled(made, tmp_path / "own-one", "--steps", "1")
    assert tokens == load.Model(one).sample(count=COUNT, seed=SEED).tokens.tolist()


def test_adapters_are_merged(tmp_path):
    pytest.importorskip("peft")
    made = generator(tmp_path / "generator", PICTURES, "lora", rank=2)
    out = exported(made, "folder", tmp_path / "out", "--batch-size", "2")
    assert 0 == main(["export", str(made), "--merge", "--out", str(tmp_path / "merged")])
    tokens = sampled(tmp_path / "merged", tmp_path / "own")
    assert tokens == load.Model(out).sample(count=COUNT, seed=SEED).tokens.tolist()


def test_a_mixture_is_exported_with_a_latent_for_each_step(tmp_path):
    made = generator(tmp_path / "generator", PICTURES, "mixture", steps=2)
    out = exported(made, "folder", tmp_path / "out", "--batch-size", "2")
    assert sampled(made, tmp_path / "own") == load.Model(out).sample(count=COUNT, seed=SEED).tokens.tolist()


def test_text_is_made_of_pieces(tmp_path):
    made = generator(tmp_path / "generator", TEXT)
    out = exported(made, "folder", tmp_path / "out", "--batch-size", "2")
    tokens = sampled(made, tmp_path / "own")
    found = load.Model(out).sample(count=COUNT, seed=SEED)
    assert tokens == found.tokens.tolist()
    teacher = built(Registry.discover(), "teacher", Choice(TEXT))
    assert list(teacher.texts(found.tokens, torch.zeros(COUNT, dtype=torch.long))) == found.texts


def test_prompts_go_along_as_tensors_and_others_can_be_given(tmp_path):
    made = generator(tmp_path / "generator", "meissonic")
    prompts = ["a red three", "a blue two left of a green five"]
    out = exported(made, "folder", tmp_path / "out", "--batch-size", "2", "--conditions", *prompts)
    tokens = sampled(made, tmp_path / "own", "--conditions", *prompts)
    model = load.Model(out)
    assert prompts == model.facts["conditions"]
    assert tokens == model.sample(count=COUNT, seed=SEED).tokens.tolist()
    teacher = built(Registry.discover(), "teacher", Choice("meissonic"))
    c = teacher.encode_conditions(["a green nine"])
    given = model.run({f"condition.{name}": tensor for name, tensor in c.items()}, seed=SEED)
    own = sampled(made, tmp_path / "other", "--conditions", "a green nine")
    assert own[:1] == given.tokens.tolist()
    assert (1, 3, 16, 16) == tuple(given.images.shape)


def test_what_is_pushed_is_sampled_from_its_address(server, tmp_path):
    """In processes of their own, which are told of the stand-in as of any other Hub."""
    made = generator(tmp_path / "generator", PICTURES)
    environment = {
        **os.environ,
        "HF_ENDPOINT": server.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": "hf_of_this_test",
    }
    environment |= {"HF_HOME": str(tmp_path / "hf"), "DIMO_CACHE": str(tmp_path / "cache")}

    def dimo(*arguments: str) -> str:
        command = [sys.executable, "-m", "dimo_core", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert 0 == done.returncode, done.stderr
        return done.stdout

    assert "pushed to hf://me/digits" in dimo(
        "push", str(made), "hf://me/digits", "--create", "--license", "MIT"
    )
    commits = server.commits["me/digits"]
    assert 2 == len(commits)
    assert commits[-1]["README.md"].startswith(b"---\nlicense: mit\n")
    assert not [name for name, data in commits[-1].items() if str(tmp_path).encode() in data]
    drawn = ("--count", str(COUNT), "--seed", str(SEED), "--device", "cpu", "--out", "drawn")
    dimo("sample", f"hf://me/digits@{1:040x}", *drawn)
    found = [
        json.loads(line)["tokens"] for line in (tmp_path / "drawn" / "samples.jsonl").read_text().splitlines()
    ]
    assert sampled(made, tmp_path / "own") == found
