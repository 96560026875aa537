"""CLIP score: the definition, published files of every kind, and what is said without them."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import fsspec
import pytest
import torch

from dimo_core.errors import CheckpointError, MissingLibraryError, UsageError
from dimo_core.metric import Samples
from dimo_core.teacher import Teacher
from dimo_core.testing import check_options
from dimo_metrics.clip_model import Preprocessing
from dimo_metrics.clip_score import ClipScore

PROMPTS = ("a red cat", "the hat", "one two three four five six seven eight nine ten", "x")
WORDS, SIDE = 12, 32


class NoTeacher(Teacher):
    """The metric asks nothing of the teacher."""


NoTeacher.__abstractmethods__ = frozenset()


class Trap:
    """Its pickle would run a program."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('executed')",)


@pytest.fixture
def published(tiny_clip: Path) -> Path:
    return tiny_clip


@pytest.fixture
def judged() -> Samples:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 48, 37), dtype=torch.uint8, generator=generator)
    return Samples(conditions=PROMPTS, images=images)


def scores(metric: ClipScore, samples: Samples) -> torch.Tensor:
    return metric.observe(samples, NoTeacher())["clip-score"]


def model_of(folder: Path) -> Any:
    from transformers.models.clip.modeling_clip import CLIPModel

    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    return CLIPModel.from_pretrained(None, config=_config(folder), state_dict=weights).eval()


def _config(folder: Path) -> Any:
    from transformers.models.clip.configuration_clip import CLIPConfig

    return CLIPConfig.from_dict(json.loads((folder / "config.json").read_text()))


def processor(**options: Any) -> Any:
    """transformers' own preprocessing, through Pillow."""
    module = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    return module.CLIPImageProcessorPil(**options)


def test_options_are_those_of_a_plugin() -> None:
    check_options(ClipScore())


def cosines(folder: Path, samples: Samples) -> list[float]:
    """By transformers alone, one pair after another, so that nothing is padded."""
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    model, tokenizer = model_of(folder), CLIPTokenizer.from_pretrained(folder)
    prepare = processor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    assert samples.images is not None
    found = []
    for image, prompt in zip(samples.images, samples.conditions, strict=True):
        words = tokenizer(prompt, truncation=True, max_length=WORDS, return_tensors="pt")
        pixels = prepare([image.permute(1, 2, 0).numpy()], return_tensors="pt")
        with torch.no_grad():
            pair = model(input_ids=words["input_ids"], pixel_values=pixels["pixel_values"])
        found.append(torch.cosine_similarity(pair.image_embeds, pair.text_embeds).item())
    return found


def negated(folder: Path) -> None:
    """Every cosine gets the other sign."""
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    weights["visual_projection.weight"].neg_()
    torch.save(weights, folder / "pytorch_model.bin")


def test_the_score_is_a_hundred_times_the_cosine_and_never_negative(
    published: Path, tmp_path: Path, judged: Samples
) -> None:
    opposite = Path(shutil.copytree(published, tmp_path / "clip"))
    negated(opposite)
    zeros = 0
    for folder in (published, opposite):
        expected = [100 * max(cosine, 0) for cosine in cosines(folder, judged)]
        metric = ClipScore(model=str(folder), batch_size=3, device="cpu")
        assert expected == pytest.approx(scores(metric, judged).tolist(), abs=1e-4)
        numbers = metric.compute(judged, None, NoTeacher())
        assert {"clip-score": pytest.approx(sum(expected) / 4, abs=1e-4)} == numbers
        zeros += expected.count(0)
    assert len(judged) == zeros  # each pair counts in one of the two


def test_the_fingerprint_is_of_the_files_and_not_of_their_place(published: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(published, copy)
    first = ClipScore(model=str(published)).fingerprint
    assert first == ClipScore(model=str(copy)).fingerprint
    (copy / "preprocessor_config.json").write_text("{}")
    assert first != ClipScore(model=str(copy)).fingerprint


def test_what_was_observed_is_not_looked_at_again(published: Path, judged: Samples) -> None:
    metric = ClipScore(model=str(published), device="cpu")
    observed = metric.observe(judged, NoTeacher())
    assert metric.observes == observed.keys()
    bare = attrs.evolve(judged, images=None, observed=observed)
    assert metric.compute(judged, None, NoTeacher()) == metric.compute(bare, None, NoTeacher())
    assert metric.compute(bare.take([2]), None, NoTeacher())["clip-score"] == observed["clip-score"][2]


@pytest.mark.parametrize("shape", [(48, 37), (20, 33), (32, 32), (256, 256), (31, 100)])
@pytest.mark.parametrize("channels", [1, 3])
def test_preprocessing_is_that_of_transformers(shape: tuple[int, int], channels: int) -> None:
    images = torch.randint(0, 256, (2, channels, *shape), dtype=torch.uint8)
    config = processor().to_dict()
    colour = [image.expand(3, -1, -1).permute(1, 2, 0).numpy() for image in images]
    expected = processor()(colour, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(expected, Preprocessing.read(config, 224)(images), rtol=0, atol=1e-6)
    assert Preprocessing.read(config, 224) == Preprocessing.read({}, 224)


@pytest.mark.parametrize("shape", [(48, 37), (20, 33), (40, 40), (31, 100)])
@pytest.mark.parametrize("crop", [40, 32])
def test_height_and_width_are_lengths_whatever_the_shape_of_the_image(
    shape: tuple[int, int], crop: int
) -> None:
    images = torch.randint(0, 256, (2, 3, *shape), dtype=torch.uint8)
    config = {"size": {"height": 40, "width": 40}, "crop_size": {"height": crop, "width": crop}}
    colour = [image.permute(1, 2, 0).numpy() for image in images]
    expected = processor(**config)(colour, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(expected, Preprocessing.read(config, crop)(images), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"size": {"height": 32, "width": 24}}, "{'height': 32, 'width': 24}"),
        ({"size": {"height": 32}}, "{'height': 32}"),
        ({"size": {"shortest_edge": 32, "longest_edge": 64}}, "'longest_edge': 64"),
        ({"size": {"max_height": 32, "max_width": 32}}, "max_height"),
        ({"size": {}}, "a size of {}"),
        ({"size": None}, "a size of None"),
        ({"crop_size": {"height": 32, "width": 24}}, "{'height': 32, 'width': 24}"),
        ({"crop_size": {"shortest_edge": 32}}, "{'shortest_edge': 32}"),
        ({"image_mean": 0.5}, "not iterable"),
        ({"resample": 9}, "9 is not a valid"),
    ],
)
def test_a_preprocessing_that_no_clip_has_is_refused_with_its_file(
    published: Path, tmp_path: Path, judged: Samples, config: dict[str, Any], said: str
) -> None:
    folder = Path(shutil.copytree(published, tmp_path / "clip"))
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"clip/preprocessor_config\.json describes no") as error:
        scores(ClipScore(model=str(folder), device="cpu"), judged)
    assert said in str(error.value)


def test_old_preprocessing_files_give_plain_numbers() -> None:
    assert Preprocessing(size=40, crop=32) == Preprocessing.read({"size": 40, "crop_size": 32}, 224)


def as_safetensors(folder: Path) -> None:
    from safetensors.torch import save_file

    save_file(torch.load(folder / "pytorch_model.bin", weights_only=True), folder / "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"not looked at")


def in_shards(folder: Path, ending: str = "bin") -> None:
    """Both halves of the weights in a file of their own, and an index."""
    from safetensors.torch import save_file

    weights, places = torch.load(folder / "pytorch_model.bin", weights_only=True), {}
    stem = "model" if ending == "safetensors" else "pytorch_model"
    for i, names in enumerate((sorted(weights)[::2], sorted(weights)[1::2]), 1):
        file = f"{stem}-0000{i}-of-00002.{ending}"
        (save_file if ending == "safetensors" else torch.save)({n: weights[n] for n in names}, folder / file)
        places |= dict.fromkeys(names, file)
    (folder / f"{stem}.{ending}.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "pytorch_model.bin").unlink()


def in_safe_shards(folder: Path) -> None:
    in_shards(folder, "safetensors")


def with_old_buffers(folder: Path) -> None:
    """Files of old versions hold the positions 0, 1, 2 ... too."""
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    weights["text_model.embeddings.position_ids"] = torch.arange(WORDS)[None]
    weights["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    torch.save(weights, folder / "pytorch_model.bin")


def with_a_program(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}))
    (folder / "evil.py").write_text("raise SystemExit('executed')\n")


def without_preprocessing(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()


@pytest.mark.parametrize(
    "change",
    [as_safetensors, in_shards, in_safe_shards, with_old_buffers, with_a_program, without_preprocessing],
)
def test_published_files_of_every_kind_give_the_same_score(
    published: Path, tmp_path: Path, judged: Samples, change: Callable[[Path], None]
) -> None:
    folder = Path(shutil.copytree(published, tmp_path / "clip"))
    change(folder)
    expected = scores(ClipScore(model=str(published), device="cpu"), judged)
    assert torch.equal(expected, scores(ClipScore(model=str(folder), device="cpu"), judged))


def test_a_clip_is_read_from_a_url_through_the_cache(
    published: Path, tmp_path: Path, judged: Samples
) -> None:
    fs = fsspec.filesystem("memory")
    fs.put(str(published), "/clips/tiny", recursive=True)
    expected = scores(ClipScore(model=str(published), device="cpu"), judged)
    assert torch.equal(expected, scores(ClipScore(model="memory://clips/tiny", device="cpu"), judged))
    folder = Path(shutil.copytree(published, tmp_path / "clip"))
    in_shards(folder)
    fs.put(str(folder), "/clips/shared_out", recursive=True)
    assert torch.equal(expected, scores(ClipScore(model="memory://clips/shared_out", device="cpu"), judged))


def test_the_fingerprint_is_of_all_shards(published: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(published, tmp_path / "clip"))
    in_shards(folder)
    before, last = ClipScore(model=str(folder)).fingerprint, folder / "pytorch_model-00002-of-00002.bin"
    last.write_bytes(last.read_bytes() + b"!")
    assert before != ClipScore(model=str(folder)).fingerprint
    last.unlink()
    with pytest.raises(CheckpointError, match=r"no file .*-00002-of-00002\.bin"):
        _ = ClipScore(model=str(folder)).fingerprint


def test_a_name_of_the_hub_is_looked_up_in_its_cache_only(
    published: Path, tmp_path: Path, judged: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    repository = tmp_path / "models--owner--tiny"
    shutil.copytree(published, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    own = hub.try_to_load_from_cache
    monkeypatch.setattr(
        hub, "try_to_load_from_cache", lambda repo, name: own(repo, name, cache_dir=str(tmp_path))
    )
    expected = scores(ClipScore(model=str(published), device="cpu"), judged)
    assert torch.equal(expected, scores(ClipScore(model="owner/tiny", device="cpu"), judged))
    with pytest.raises(CheckpointError, match=r"no CLIP 'owner/other'.*Hugging Face cache"):
        scores(ClipScore(model="owner/other"), judged)


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("config.json", r"config\.json"),
        ("pytorch_model.bin", r"model\.safetensors or .* or pytorch_model\.bin or "),
        ("vocab.json", r"vocab\.json"),
        ("merges.txt", r"vocab\.json"),
    ],
)
def test_a_missing_file_is_named_with_what_to_do(
    published: Path, tmp_path: Path, judged: Samples, missing: str, named: str
) -> None:
    folder = Path(shutil.copytree(published, tmp_path / "clip"))
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=f"{named}.* missing.*option 'model'.*hf://"):
        scores(ClipScore(model=str(folder)), judged)


def test_a_pickled_program_is_not_run(published: Path, tmp_path: Path, judged: Samples) -> None:
    folder = Path(shutil.copytree(published, tmp_path / "clip"))
    torch.save({"logit_scale": torch.tensor(1.0), "trap": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        scores(ClipScore(model=str(folder)), judged)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{", "is no JSON"),
        ("config.json", "[]", "is no JSON object"),
        ("config.json", "[" * 100_000, "is no JSON"),
        ("config.json", json.dumps({"model_type": "bert"}), "no vision_config"),
        ("config.json", json.dumps({"vision_config": {"patch_size": "x"}}), "no possible CLIP"),
        ("vocab.json", "{", "no CLIP tokenizer"),
    ],
)
def test_a_damaged_file_is_named(
    published: Path, tmp_path: Path, judged: Samples, name: str, content: str, message: str
) -> None:
    folder = Path(shutil.copytree(published, tmp_path / "clip"))
    (folder / name).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        scores(ClipScore(model=str(folder)), judged)


def test_weights_of_another_size_are_listed(published: Path, tmp_path: Path, judged: Samples) -> None:
    folder = Path(shutil.copytree(published, tmp_path / "clip"))
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    del weights["logit_scale"]
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="missing: logit_scale"):
        scores(ClipScore(model=str(folder)), judged)


def test_a_missing_transformers_is_named_with_the_extra(
    published: Path, judged: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers.models.clip.modeling_clip", None)
    with pytest.raises(MissingLibraryError, match=r"transformers.*pip install --upgrade \"dimo\[clip\]\""):
        scores(ClipScore(model=str(published)), judged)


def test_samples_without_images_or_prompts_are_refused(judged: Samples) -> None:
    with pytest.raises(UsageError, match="looks at images"):
        scores(ClipScore(), attrs.evolve(judged, images=None))
    with pytest.raises(UsageError, match="the condition 3 is none"):
        scores(ClipScore(), attrs.evolve(judged, conditions=("a cat", 3, "a", "b")))


@pytest.mark.parametrize(
    "statement",
    [
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
    ],
)
def test_a_broken_torchvision_does_not_take_the_score_away(
    published: Path, tmp_path: Path, statement: str
) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(f"{statement}\n")
    code = f"""
import sys, torch
sys.path.insert(0, {str(tmp_path)!r})
from dimo_metrics.clip_score import ClipScore
from dimo_core.metric import Samples
samples = Samples(conditions=("a",), images=torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
score = ClipScore(model={str(published)!r}, device="cpu").compute(samples, None, None)
print(0 <= score["clip-score"] <= 100)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (0, "True") == (done.returncode, done.stdout.strip()), done.stderr
