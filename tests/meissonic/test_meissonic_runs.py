"""Distilling, converting, and the folders in which generators were released."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from loguru import logger
from safetensors.torch import load_file, save_file

from dimo_core.cli import main as dimo
from dimo_core.errors import CheckpointError, NumericalError, UsageError
from dimo_core.files import digests
from dimo_core.files.cache import file_sha256
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import load_generator
from dimo_core.jobs.distil import RunResult, distill
from dimo_core.method.one_step import OneStep
from dimo_core.testing import check_teacher
from dimo_divergences import Jeffrey
from dimo_meissonic.teacher import Meissonic

WEIGHTS = "diffusion_pytorch_model.safetensors"


def run(out: Path, options: dict[str, Any], prompts: Any, preset: str, **changed: Any) -> RunResult:
    return distill(
        preset=preset,
        teacher={"name": "meissonic", **options, "grid": list(options["grid"])},
        conditions=prompts,
        train={"steps": 2, "batch_size": 4, "accumulate": 2, "sample_every": 1, "log_every": 1},
        out=str(out),
        device="cpu",
        **changed,
    )


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.*:UserWarning")
@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_two_steps_leave_a_generator_that_draws_pictures(
    preset: str, tmp_path: Path, options: dict[str, Any], prompts: Any
) -> None:
    result = run(tmp_path / "run", options, prompts, preset)
    trained, frozen = result.generator.backbone, Meissonic(**options).network()
    before = frozen.state_dict()
    changed = {n for n, t in trained.state_dict().items() if not torch.equal(before[n], t)}
    held = set(Meissonic(**options).frozen_parameters())
    assert not changed & held
    assert len(changed) > 0.8 * len(before)  # a rate of 1e-6 is lost in some, by rounding
    assert all(bool(t.isfinite().all()) for t in trained.state_dict().values())
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert 2 == len(lines)
    assert 3 == len(list((tmp_path / "run" / "samples").glob("*.png")))
    teacher, generator = load_generator(str(tmp_path / "run" / "generator"))
    assert isinstance(teacher, Meissonic)
    assert 0.5 == generator.sampling()["r_init"]
    for name, tensor in generator.backbone.state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[name])


@pytest.mark.slow
def test_a_beta_that_diverged_in_the_paper_is_warned_of_before_the_run(
    tmp_path: Path, options: dict[str, Any], prompts: Any
) -> None:
    said: list[str] = []
    sink = logger.add(lambda message: said.append(message.record["message"]), level="WARNING")
    try:
        run(tmp_path / "a", options, prompts, "fast", divergence=Jeffrey(beta=0.5))
        assert 1 == sum("beta 0.5" in text for text in said)
        said.clear()
        run(tmp_path / "b", options, prompts, "fast")
    finally:
        logger.remove(sink)
    assert [] == [text for text in said if "beta" in text]


def convert(out: Path, options: dict[str, Any], *further: str) -> int:
    grid = "[{},{}]".format(*options["grid"])
    given = ["--teacher", "meissonic", "--teacher.checkpoint", options["checkpoint"], "--teacher.grid", grid]
    return dimo(["convert", *given, *further, "--out", str(out)])


def test_a_converted_teacher_is_the_same_teacher(tmp_path: Path, options: dict[str, Any]) -> None:
    out = tmp_path / "teacher"
    assert 0 == convert(out, options)
    one, other = Meissonic(**options), Meissonic(checkpoint=str(out), text_device="cpu")
    assert one.tokens == other.tokens
    check_teacher(other, ["a red cat", "b"])
    prompts = ["a red cat", "the green hat"]
    c, d = one.encode_conditions(prompts), other.encode_conditions(prompts)
    assert all(torch.equal(c[name], d[name]) for name in c)
    assert all(torch.equal(t, other.network().state_dict()[n]) for n, t in one.network().state_dict().items())
    x = torch.arange(128).view(2, 64) % 64
    assert torch.equal(one.decode(x, c), other.decode(x, d))
    card = yaml.safe_load((out / "teacher.yaml").read_text())
    assert ([8, 8], options["checkpoint"]) == (card["grid"], card["converted_from"]["folder"])
    config = json.loads((out / "transformer" / "config.json").read_text())
    assert "Transformer2DModel" == config["_class_name"]
    on_disk = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} - {"teacher.yaml"}
    assert on_disk == set(card["sha256"])
    assert not any(name.endswith(".py") for name in on_disk)


@pytest.mark.parametrize("file", [f"vqvae/{WEIGHTS}", "text_encoder/model.safetensors"])
def test_parts_that_are_not_finite_are_neither_converted_nor_used(
    tmp_path: Path, options: dict[str, Any], published: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Path(shutil.copytree(published, tmp_path / "broken"))
    tensors = load_file(broken / file)
    name = next(name for name in sorted(tensors) if tensors[name].is_floating_point())
    tensors[name].view(-1)[0] = torch.inf
    save_file(tensors, broken / file)
    assert 1 == convert(tmp_path / "out", {**options, "checkpoint": str(broken)})
    assert f"{broken / file}: 1 tensors of its weights hold NaN or infinity" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    teacher = Meissonic(**{**options, "checkpoint": str(broken)})
    with pytest.raises(NumericalError, match=name):
        teacher.decode(torch.zeros(1, 64, dtype=torch.long), teacher.encode_conditions(["a"]))


def test_a_converted_teacher_keeps_the_text_encoder_that_it_was_given(
    tmp_path: Path, options: dict[str, Any], published: Path
) -> None:
    other = Path(shutil.copytree(published / "text_encoder", tmp_path / "text"))
    save_file(
        {n: t + 0.01 for n, t in load_file(other / "model.safetensors").items()}, other / "model.safetensors"
    )
    assert 0 == convert(tmp_path / "teacher", options, "--teacher.text_encoder", str(other))
    expected = Meissonic(**options, text_encoder=str(other)).encode_conditions(["a"])
    found = Meissonic(checkpoint=str(tmp_path / "teacher"), text_device="cpu").encode_conditions(["a"])
    assert torch.equal(expected["text"], found["text"])


@pytest.mark.parametrize(
    "file",
    [f"transformer/{WEIGHTS}", f"vqvae/{WEIGHTS}", "text_encoder/model.safetensors", "tokenizer/merges.txt"],
)
def test_a_file_that_changed_after_conversion_is_refused(
    tmp_path: Path, options: dict[str, Any], file: str
) -> None:
    out = tmp_path / "teacher"
    assert 0 == convert(out, options)
    (out / file).write_bytes((out / file).read_bytes() + b" ")
    teacher = Meissonic(checkpoint=str(out), text_device="cpu")

    def use() -> None:
        teacher.network()
        teacher.decode(torch.zeros(1, 64).long(), {})
        teacher.encode_conditions(["a"])

    with pytest.raises(CheckpointError, match="SHA-256"):
        use()


@pytest.mark.parametrize(
    "text",
    [
        "format: other/1\n",
        "[1]\n",
        "a: [\n",
        "format: dimo-meissonic/1\n",
        "{format: dimo-meissonic/1, sha256: {}, grid: 8}\n",
        "{format: dimo-meissonic/1, sha256: {}, negative_prompt: []}\n",
    ],
)
def test_a_card_of_another_kind_is_refused(
    tmp_path: Path, options: dict[str, Any], published: Path, text: str
) -> None:
    folder = Path(shutil.copytree(published, tmp_path / "copy"))
    (folder / "teacher.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=r"teacher\.yaml"):
        _ = Meissonic(checkpoint=str(folder)).tokens


@pytest.fixture
def released(published: Path, tmp_path: Path) -> Path:
    """What training writes: checkpoint-13000/generator, and ema_model, as diffusers saves a network."""
    for name, change in {"generator": 0.01, "ema_model": 0.02}.items():
        folder = tmp_path / "checkpoint-13000" / name
        shutil.copytree(published / "transformer", folder)
        tensors = load_file(folder / WEIGHTS)
        save_file({n: t + change for n, t in tensors.items()}, folder / WEIGHTS)
    shutil.copytree(tmp_path / "checkpoint-13000" / "generator", tmp_path / "meissonic" / "transformer")
    return tmp_path


@pytest.mark.parametrize(
    ("folder", "change"),
    [("checkpoint-13000/generator", 0.01), ("checkpoint-13000/ema_model", 0.02), ("meissonic", 0.01)],
)
def test_released_generators_load_from_both_layouts(
    released: Path, options: dict[str, Any], folder: str, change: float
) -> None:
    teacher = Meissonic(**options)
    generator = OneStep(init=str(released / folder)).build(teacher)
    own = teacher.network().state_dict()
    for name, tensor in generator.backbone.state_dict().items():
        assert torch.equal(own[name] + change, tensor)


def test_a_released_generator_is_converted_and_drawn_from(released: Path, options: dict[str, Any]) -> None:
    out = released / "converted"
    init = ["--generator.init", str(released / "meissonic"), "--generator.r_init", "0.6"]
    assert 0 == convert(out, options, *init)
    _, generator = load_generator(str(out))
    assert 0.6 == generator.sampling()["r_init"]
    assert ["generator.safetensors", "generator.yaml"] == Folder(str(out)).names()
    card = yaml.safe_load((out / "generator.yaml").read_text())
    assert str(released / "meissonic") == card["converted_from"]
    assert 0 == dimo(["sample", str(out), "--conditions", "a red cat", "--count", "2", "--device", "cpu"])
    drawn = [path for path in released.rglob("*.png") if path.stem.isdecimal()]
    assert 2 == len(drawn)


def test_a_converted_teacher_keeps_the_negative_prompt_that_it_was_given(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    out = tmp_path / "teacher"
    assert 0 == convert(out, options, "--teacher.negative_prompt", "the grey hat")
    one = Meissonic(**options, negative_prompt="the grey hat")
    other = Meissonic(checkpoint=str(out), text_device="cpu")
    c = one.encode_conditions(["a red cat"])
    assert torch.equal(one.null_condition(c)["text"], other.null_condition(c)["text"])


def test_a_released_generator_starts_from_what_it_was_trained_with(
    released: Path, options: dict[str, Any]
) -> None:
    out = released / "converted"
    assert 0 == convert(out, options, "--generator.init", str(released / "meissonic"))
    card = yaml.safe_load((out / "generator.yaml").read_text())["generator"]
    assert (0.5, 0.3) == (card["r_init"], card["sigma_init"])


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("checkpoint-13000", "generator, or ema_model"),
        ("nothing", r"no network in .*[\s\S]*Yuanzhi/DiMO"),
    ],
)
def test_folders_without_a_network_are_refused_with_advice(
    released: Path, options: dict[str, Any], folder: str, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        OneStep(init=str(released / folder)).build(Meissonic(**options))


def test_a_generator_of_other_sizes_is_refused(released: Path, options: dict[str, Any]) -> None:
    path = released / "meissonic" / "transformer" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "axes_dims_rope": [8, 4, 4]}))
    with pytest.raises(CheckpointError, match="other sizes than the teacher's"):
        OneStep(init=str(released / "meissonic")).build(Meissonic(**options))


def test_a_generator_folder_of_dimo_still_loads(
    tmp_path: Path, options: dict[str, Any], prompts: Any
) -> None:
    result = run(tmp_path / "run", options, prompts, "fast")
    again = OneStep(init=str(tmp_path / "run" / "generator")).build(Meissonic(**options))
    state = result.generator.backbone.state_dict()
    assert all(torch.equal(state[n], t) for n, t in again.backbone.state_dict().items())


def test_a_source_of_labels_is_refused_and_says_to_choose_another(
    options: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"takes 'text'.*--conditions NAME"):
        distill(teacher=Meissonic(**options), out=str(tmp_path / "x"), conditions="labels")


def test_sampling_reads_the_weights_of_a_published_folder_for_their_digests_once(
    tmp_path: Path, options: dict[str, Any], prompts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A generator's card holds digests of all parts, also of those that a sample does not need."""
    monkeypatch.setenv("DIMO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "SETTLED", -60.0)
    hashed: list[Path] = []

    def spy(path: Path) -> str:
        hashed.append(path)
        return file_sha256(path)

    monkeypatch.setattr(digests, "file_sha256", spy)
    checkpoint = Path(shutil.copytree(options["checkpoint"], tmp_path / "teacher"))
    run(tmp_path / "run", {**options, "checkpoint": str(checkpoint)}, prompts, "fast")
    assert 3 == len(hashed)
    for _ in range(2):
        load_generator(str(tmp_path / "run" / "generator"))
    assert 3 == len(hashed)
    weights = checkpoint / "vqvae" / WEIGHTS
    save_file({n: t + 0.01 for n, t in load_file(weights).items()}, weights)
    with pytest.raises(CheckpointError, match=rf"the SHA-256 of vqvae/{WEIGHTS} is another"):
        load_generator(str(tmp_path / "run" / "generator"))


@pytest.mark.parametrize("part", ["transformer", "vqvae", "text_encoder", "tokenizer"])
def test_a_part_that_is_missing_is_found_before_anything_is_started(
    published: Path, tmp_path: Path, part: str, capsys: Any
) -> None:
    copied, out = tmp_path / "copied", tmp_path / "out"
    shutil.copytree(published, copied)
    shutil.rmtree(copied / part)
    given = ["--teacher", "meissonic", "--teacher.checkpoint", str(copied), "--teacher.grid", "[8,8]"]
    prompts = ["--conditions", "prompt-list", "--conditions.prompts", "[a cat]"]
    assert 1 == dimo(["run", *given, *prompts, "--steps", "1", "--device", "cpu", "--out", str(out)])
    first, *others = [line for line in capsys.readouterr().err.splitlines() if ": error: " in line]
    assert f"copied/{part}" in first
    assert any("--teacher.checkpoint" in line for line in others)
    assert all(line.startswith("dimo run: error: ") for line in (first, *others))
    assert not out.exists()
