"""The teacher ``meissonic`` as the core and its users meet it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import fsspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dimo_core import conditions
from dimo_core.errors import CheckpointError, ConfigError, MissingLibraryError, UsageError
from dimo_core.registry import Registry
from dimo_core.testing import check_teacher
from dimo_meissonic.files import VOCABULARY, WEIGHTS, WHAT_IS_NEEDED
from dimo_meissonic.teacher import Meissonic
from dimo_meissonic.text import NEGATIVE_PROMPT

PROMPTS = ["a red cat", "the green hat of an hour"]


def towers_calls(teacher: Meissonic) -> list[int]:
    """Grows by the batch size of each pass through the text tower."""
    calls: list[int] = []
    teacher.prompts.tower.register_forward_pre_hook(
        lambda _module, _args, kwargs: calls.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    return calls


@pytest.fixture
def singly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts pass the tower one at a time, as through a large one on a CPU."""
    monkeypatch.setattr("dimo_meissonic.text.SMALL", 0)


def use(teacher: Meissonic) -> None:
    """Read every part."""
    teacher.network()
    teacher.encode_conditions(["a"])
    teacher.decode(torch.zeros(1, 64).long(), {})


def copied(published: Path, folder: Path) -> Path:
    return Path(shutil.copytree(published, folder / "copy"))


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"timestep": "step_index", "gradient_checkpointing": True},
        {"timestep": "mask_ratio"},
        {"grid": (4, 6)},
        {"grid": (3, 5)},
    ],
)
def test_it_keeps_the_contract(options: dict[str, Any], extra: dict[str, Any]) -> None:
    check_teacher(Meissonic(**{**options, **extra}), PROMPTS)


def test_it_is_found_by_name_and_says_what_to_install() -> None:
    registry = Registry.discover()
    assert registry.load("teacher", "meissonic") is Meissonic
    (offer,) = [o for o in registry.offers() if o.name == "meissonic"]
    assert "dimo[meissonic]" == offer.extra


def test_its_tokens_are_those_of_the_published_configs(teacher: Meissonic, published: Path) -> None:
    space = teacher.tokens
    assert (64, 64, 71, (8, 8), "image") == (
        space.length,
        space.codes,
        space.mask_id,
        space.grid,
        space.modality,
    )
    assert (64, 64) == Meissonic(checkpoint=str(published)).tokens.grid
    assert ("text", ()) == (teacher.conditioning.kind, teacher.conditioning.classes)


def test_a_network_without_down_sampling_has_32_by_32_tokens(published: Path, tmp_path: Path) -> None:
    folder = copied(published, tmp_path)
    golden = Path(__file__).parents[1] / "data" / "meissonic" / "tiny_flat" / "transformer" / "config.json"
    shutil.copy(golden, folder / "transformer" / "config.json")
    assert (32, 32) == Meissonic(checkpoint=str(folder)).tokens.grid


@pytest.mark.parametrize("grid", [(0, 4), (4, 0)])
def test_an_empty_grid_is_refused(grid: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="'grid' must be >= 1: 0"):
        Meissonic(grid=grid)


def test_the_network_hears_the_grid_the_time_and_whether_to_compute_again(options: dict[str, Any]) -> None:
    network = Meissonic(
        **options, timestep="step_index", timestep_steps=9, gradient_checkpointing=True
    ).network()
    assert ((8, 8), "step_index", 9, True) == (
        network.grid,
        network.clock.convention,
        network.clock.steps,
        network.gradient_checkpointing,
    )


def test_time_matters_unless_it_is_zero(options: dict[str, Any]) -> None:
    logits: dict[str, list[Tensor]] = {}
    for timestep in ("zero", "step_index", "mask_ratio"):
        teacher = Meissonic(**options, timestep=timestep)
        x = torch.full((1, 64), 71)
        c, network = teacher.encode_conditions(PROMPTS[:1]), teacher.network()
        with torch.no_grad():
            logits[timestep] = [network.logits(x, c, mask_ratio=torch.tensor([r])) for r in (1.0, 0.1)]
    assert torch.equal(*logits["zero"])
    assert not torch.allclose(*logits["step_index"])
    assert not torch.allclose(*logits["mask_ratio"])


@pytest.mark.usefixtures("singly")
def test_each_prompt_is_encoded_once_and_the_negative_one_once_a_run(teacher: Meissonic) -> None:
    calls = towers_calls(teacher)
    c = teacher.encode_conditions(["a", "b", "a", "c", "b"])
    assert [1, 1, 1] == calls
    assert torch.equal(c["text"][0], c["text"][2])
    assert not torch.equal(c["text"][0], c["text"][1])
    again = teacher.encode_conditions(["c", "a"])
    assert torch.equal(c["pooled"][[3, 0]], again["pooled"])
    assert [1, 1, 1] == calls
    for _ in range(3):
        teacher.null_condition(c)
    assert [1, 1, 1, 1] == calls


@pytest.mark.usefixtures("singly")
def test_only_so_many_prompts_are_remembered_and_the_oldest_is_forgotten(options: dict[str, Any]) -> None:
    teacher = Meissonic(**options, text_cache=2)
    calls = towers_calls(teacher)
    teacher.encode_conditions(["a", "b"])
    teacher.encode_conditions(["a", "c"])  # b is the one that was used the longest time ago
    assert 3 == len(calls)
    teacher.encode_conditions(["a", "c"])
    assert 3 == len(calls)
    teacher.encode_conditions(["b"])
    assert 4 == len(calls)
    assert (3, 77, 24) == teacher.encode_conditions(["x", "y", "z"])["text"].shape


def test_an_embedding_depends_on_its_prompt_alone_to_the_last_bit(options: dict[str, Any]) -> None:
    one, other = Meissonic(**options), Meissonic(**options)
    one.encode_conditions(["the first", "the second"])
    a, b = one.encode_conditions(["a red cat", "b"]), other.encode_conditions(["c", "d", "a red cat"])
    assert torch.equal(a["text"][0], b["text"][2])
    assert torch.equal(a["pooled"][0], b["pooled"][2])


def test_long_prompts_are_cut_and_the_end_is_kept(teacher: Meissonic) -> None:
    words = [f"{letter}{digit}" for letter in "abcdefghij" for digit in range(10)]
    c = teacher.encode_conditions([" ".join(words), " ".join(words[:70])])
    assert (2, 77, 24) == c["text"].shape
    ids = teacher.prompts.tokenizer(" ".join(words), max_length=77, truncation=True).input_ids
    assert (97, 98, 77) == (ids[0], ids[-1], len(ids))


def test_the_null_condition_is_the_negative_prompt_at_the_same_size(options: dict[str, Any]) -> None:
    teacher = Meissonic(**options, micro_conditions=(512.0, 768.0, 1.0, 2.0, 5.5))
    c = teacher.encode_conditions(PROMPTS)
    null = teacher.null_condition(c)
    told = torch.tensor([[512.0, 768.0, 1.0, 2.0, 5.5]] * 2)
    assert torch.equal(told, c["micro"])
    assert torch.equal(told, null["micro"])
    expected = teacher.encode_conditions([NEGATIVE_PROMPT] * 2)
    assert torch.equal(expected["text"], null["text"])
    assert torch.equal(expected["pooled"], null["pooled"])
    empty = Meissonic(**options, negative_prompt="")
    assert torch.equal(empty.encode_conditions([""] * 2)["text"], empty.null_condition(c)["text"])
    half = conditions.tree_map(lambda leaf: leaf.to(torch.bfloat16), c)
    assert torch.bfloat16 == teacher.null_condition(half)["pooled"].dtype


def test_the_published_negative_prompt_is_the_default() -> None:
    assert NEGATIVE_PROMPT == (
        "worst quality, low quality, low res, blurry, distortion, watermark, logo, signature, text, jpeg "
        "artifacts, signature, sketch, duplicate, ugly, identifying mark"
    )


@pytest.mark.parametrize(("grid", "told"), [((8, 8), (16, 16)), ((4, 6), (12, 8))])
def test_the_network_is_told_width_and_height_of_its_images(
    options: dict[str, Any], grid: tuple[int, int], told: tuple[int, int]
) -> None:
    c = Meissonic(**{**options, "grid": grid}).encode_conditions(["a"])
    assert [[*told, 0, 0, 6]] == c["micro"].tolist()


@pytest.mark.parametrize("wrong", [3, None, b"bytes"])
def test_conditions_that_are_no_text_are_refused(teacher: Meissonic, wrong: Any) -> None:
    with pytest.raises(UsageError, match="takes prompts"):
        teacher.encode_conditions(["fine", wrong])


def test_without_weights_a_network_and_conditions_can_be_planned(published: Path, tmp_path: Path) -> None:
    """Only the JSON files are there."""
    folder = copied(published, tmp_path)
    for file in [*folder.rglob("*.safetensors"), *folder.rglob("vocab.json")]:
        file.unlink()
    teacher = Meissonic(checkpoint=str(folder), grid=(8, 8))
    with torch.device("meta"):
        assert all(p.is_meta for p in teacher.skeleton().parameters())
    assert "cpu" == teacher.skeleton().head(torch.zeros(1, 64, 32)).device.type
    planned = conditions.to(teacher.condition_skeleton(["a", "b", "c"]), "meta")
    null = teacher.null_condition(planned)
    for c in (planned, null):
        assert {"text": (3, 77, 24), "pooled": (3, 32), "micro": (3, 5)} == {
            name: tuple(leaf.shape) for name, leaf in c.items()
        }
    with pytest.raises(CheckpointError, match=r"no weights in .*transformer"):
        teacher.network()


def test_planned_conditions_have_the_shapes_of_real_ones(teacher: Meissonic) -> None:
    real, planned = teacher.encode_conditions(PROMPTS), teacher.condition_skeleton(PROMPTS)
    assert {n: (t.shape, t.dtype) for n, t in real.items()} == {
        n: (t.shape, t.dtype) for n, t in planned.items()
    }


def test_half_precision_files_are_read_where_there_are_no_others(published: Path, tmp_path: Path) -> None:
    folder = copied(published, tmp_path)
    for part, (whole, half, *_) in WEIGHTS.items():
        tensors = load_file(folder / part / whole)
        (folder / part / whole).unlink()
        save_file({name: t.half() for name, t in tensors.items()}, folder / part / half)
    teacher = Meissonic(checkpoint=str(folder), grid=(8, 8), text_device="cpu")
    network = teacher.network()
    exact = load_file(published / "transformer" / WEIGHTS["transformer"][0])
    for name, p in network.state_dict().items():
        assert torch.float32 == p.dtype
        assert torch.equal(exact[name].half().float(), p)
    c = teacher.encode_conditions(PROMPTS)
    assert torch.float32 == c["text"].dtype == teacher.decode(torch.zeros(2, 64).long(), c).dtype
    shutil.copy(published / "transformer" / WEIGHTS["transformer"][0], folder / "transformer")
    whole = Meissonic(checkpoint=str(folder), grid=(8, 8)).network().state_dict()
    assert all(torch.equal(exact[name], p) for name, p in whole.items())


def test_a_folder_may_be_anywhere_and_no_code_in_it_is_fetched(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIMO_CACHE", str(tmp_path / "cache"))
    fs = fsspec.filesystem("memory")
    fs.put(str(published), "/hub/Meissonic", recursive=True)
    try:
        teacher = Meissonic(checkpoint="memory://hub/Meissonic", grid=(8, 8), text_device="cpu")
        c = teacher.encode_conditions(PROMPTS)
        teacher.decode(torch.zeros(2, 64).long(), c)
        state = teacher.network().state_dict()
    finally:
        fs.rm("/hub", recursive=True)
    local = Meissonic(checkpoint=str(published), grid=(8, 8), text_device="cpu")
    assert torch.equal(local.encode_conditions(PROMPTS)["text"], c["text"])
    assert all(torch.equal(t, state[name]) for name, t in local.network().state_dict().items())
    fetched = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    allowed = {
        "config.json",
        *(name for name, _ in VOCABULARY),
        *(f for files in WEIGHTS.values() for f in files),
    }
    assert fetched <= allowed
    assert "transformer.py" not in fetched


def test_a_folder_without_a_teacher_says_what_to_get_and_where_it_goes(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as failure:
        Meissonic(checkpoint=str(tmp_path)).network()
    for text in (
        "MeissonFlow/Meissonic",
        "--teacher.checkpoint",
        "Yuanzhi/DiMO",
        "--generator.init",
        "4.0 GB",
    ):
        assert text in str(failure.value)


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("transformer/config.json", "transformer/config.json"),
        ("transformer/diffusion_pytorch_model.safetensors", "transformer"),
        ("vqvae/diffusion_pytorch_model.safetensors", "vqvae"),
        ("text_encoder/model.safetensors", "text_encoder"),
        ("tokenizer/vocab.json", "tokenizer/vocab.json"),
        ("tokenizer/merges.txt", "tokenizer/merges.txt"),
    ],
)
def test_a_missing_file_is_named(published: Path, tmp_path: Path, missing: str, named: str) -> None:
    folder = copied(published, tmp_path)
    (folder / missing).unlink()
    teacher = Meissonic(checkpoint=str(folder), grid=(8, 8), text_device="cpu")
    with pytest.raises(CheckpointError) as failure:
        use(teacher)
    assert named in str(failure.value).splitlines()[0]
    assert WHAT_IS_NEEDED in str(failure.value)


def padded(folder: Path, changes: dict[str, dict[str, Any] | None]) -> Meissonic:
    """The teacher of a folder, some of whose tokenizer files are changed (None: removed)."""
    for name, change in changes.items():
        path = folder / "tokenizer" / name
        if change is None:
            path.unlink()
        else:
            entries = {**json.loads(path.read_text()), **change}
            path.write_text(json.dumps({key: value for key, value in entries.items() if value is not None}))
    return Meissonic(checkpoint=str(folder), grid=(8, 8), text_device="cpu")


CONFIG, MARKS = "tokenizer_config.json", "special_tokens_map.json"


@pytest.mark.parametrize(
    ("changes", "padding"),
    [
        ({MARKS: None}, 98),
        ({CONFIG: None}, 98),
        ({CONFIG: {"pad_token": "a"}, MARKS: None}, 0),
        ({CONFIG: None, MARKS: {"pad_token": {"content": "b", "lstrip": False}}}, 1),
        ({CONFIG: {"pad_token": "a"}, MARKS: {"pad_token": "b"}}, 1),
        ({CONFIG: {"pad_token": "a", "added_tokens_decoder": {}}, MARKS: {"pad_token": "b"}}, 0),
        ({CONFIG: {"pad_token": None}, MARKS: {"pad_token": "b"}}, 1),
    ],
)
def test_prompts_are_filled_up_with_the_token_that_the_files_name(
    published: Path, tmp_path: Path, changes: Any, padding: int
) -> None:
    teacher = padded(copied(published, tmp_path), changes)
    seen: list[Tensor] = []
    teacher.prompts.tower.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    teacher.encode_conditions(["c"])
    teacher.check()
    assert [97, 36 + 2, 98, *[padding] * 74] == seen[-1][0].tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({CONFIG: None, MARKS: None}, r"'pad_token' is neither in tokenizer_config\.json nor in special_"),
        ({CONFIG: {"pad_token": None}, MARKS: None}, "does not tell its padding token"),
        ({CONFIG: {"pad_token": None, "added_tokens_decoder": {}}}, "does not tell its padding token"),
        ({MARKS: {"pad_token": "nowhere"}}, r"'nowhere' of .*tokenizer is no entry of its vocab\.json"),
        ({MARKS: {"pad_token": ["a"]}}, "holds no CLIP tokenizer"),
    ],
)
def test_a_padding_token_is_never_guessed(
    published: Path, tmp_path: Path, changes: Any, message: str
) -> None:
    teacher = padded(copied(published, tmp_path), changes)
    with pytest.raises(CheckpointError, match=message):
        teacher.encode_conditions(["a"])
    with pytest.raises(CheckpointError, match=message):
        teacher.check()


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("text_encoder", {"hidden_size": 48}, "the network takes"),
        ("text_encoder", {"max_position_embeddings": None}, "no CLIP text tower"),
        ("text_encoder", {"num_hidden_layers": 2}, "does not fit the network"),
        ("transformer", {"num_layers": 1}, "does not fit the network"),
        ("transformer", {"codebook_size": 63}, "does not fit the network"),
        ("vqvae", {"num_vq_embeddings": 32}, "does not fit the network"),
        ("vqvae", {"block_out_channels": None}, "no VQModel"),
    ],
)
def test_configs_that_do_not_fit_are_refused(
    published: Path, tmp_path: Path, part: str, change: dict[str, Any], message: str
) -> None:
    folder = copied(published, tmp_path)
    path = folder / part / "config.json"
    config = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
    teacher = Meissonic(checkpoint=str(folder), grid=(8, 8), text_device="cpu")
    with pytest.raises(CheckpointError, match=message):
        use(teacher)


@pytest.mark.parametrize("text", ["no json", "[1, 2]", '{"a": ', "[" * 100_000], ids=[*"nlcd"])
def test_a_config_that_is_no_json_object_is_refused(published: Path, tmp_path: Path, text: str) -> None:
    folder = copied(published, tmp_path)
    (folder / "transformer" / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match="is no JSON"):
        _ = Meissonic(checkpoint=str(folder)).tokens


def test_a_text_encoder_that_is_not_there_is_named(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no CLIP text tower in .*[\s\S]*--teacher\.text_encoder"):
        Meissonic(**options, text_encoder=str(tmp_path)).encode_conditions(["a"])


def test_a_damaged_tokenizer_is_refused(published: Path, tmp_path: Path) -> None:
    folder = copied(published, tmp_path)
    (folder / "tokenizer" / "vocab.json").write_text("{")
    with pytest.raises(CheckpointError, match="holds no CLIP tokenizer"):
        Meissonic(checkpoint=str(folder), text_device="cpu").encode_conditions(["a"])


def test_frozen_are_the_six_tensors_of_embedding_and_head(teacher: Meissonic) -> None:
    names = teacher.frozen_parameters()
    assert 6 == len(names)
    assert {"embed.embeddings.weight", "embed.conv.weight", "mlm_layer.conv2.weight"} < set(names)


@pytest.mark.parametrize(
    ("divergence", "warned"),
    [
        ({"name": "jeffrey", "beta": 0.0}, False),
        ({"name": "jeffrey", "beta": -0.1}, False),
        ({"name": "jeffrey", "beta": 0.2}, False),
        ({"name": "jeffrey", "beta": -0.2}, True),
        ({"name": "jeffrey", "beta": 0.21}, True),
        ({"name": "rkl"}, True),
        ({"name": "fkl"}, False),
        ({"name": "skew", "beta": 3.0}, False),
    ],
)
def test_betas_that_diverged_in_the_paper_are_warned_of(
    teacher: Meissonic, divergence: dict[str, Any], warned: bool
) -> None:
    advice = teacher.advise({"divergence": divergence})
    assert warned == bool(advice)
    assert all("[-0.1, 0.2]" in text for text in advice)


def test_a_wrong_option_is_refused_by_the_configuration(published: Path) -> None:
    from dimo_core.config.distil import resolve_job

    with pytest.raises(ConfigError, match="timestep"):
        resolve_job({"teacher": {"name": "meissonic", "timestep": "one"}})


# The libraries.


@pytest.mark.parametrize("module", ["modeling_clip", "tokenization_clip", "configuration_clip"])
def test_a_missing_transformers_is_named_with_the_extra(
    teacher: Meissonic, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, f"transformers.models.clip.{module}", None)
    with pytest.raises(MissingLibraryError, match=r'transformers.*pip install --upgrade "dimo\[meissonic\]"'):
        teacher.encode_conditions(["a"])


BROKEN = "raise RuntimeError('operator torchvision::nms does not exist')"
USER = """
import importlib.util, json, sys
from dimo_meissonic.teacher import Meissonic
late = not {"diffusers", "transformers"} & set(sys.modules)
import torch
if sys.argv[3] == "absent":
    sys.modules["torchvision"] = None
teacher = Meissonic(checkpoint=sys.argv[1], grid=(8, 8), text_device="cpu")
first = sys.argv[2]
if first == "text":
    teacher.encode_conditions(["a red cat"])
elif first == "images":
    teacher.decode(torch.zeros(1, 64).long(), {})
c = teacher.encode_conditions(["the hat"])
logits = teacher.network().logits(torch.zeros(1, 64).long(), c, mask_ratio=torch.zeros(1))
images = teacher.decode(logits.argmax(-1), c)
here = [m for m in sys.modules if m.startswith("torchvision") and sys.modules[m] is not None]
print(json.dumps([late, bool(images.isfinite().all()), here]))
"""


@pytest.mark.parametrize(
    ("first", "torchvision"),
    [
        pytest.param("text", "broken", marks=pytest.mark.slow),
        pytest.param("images", "broken", marks=pytest.mark.slow),
        pytest.param("network", "absent", marks=pytest.mark.slow),
    ],
)
def test_it_works_late_and_without_a_torchvision_that_loads(
    published: Path, tmp_path: Path, first: str, torchvision: str
) -> None:
    package, info = tmp_path / "torchvision", tmp_path / "torchvision-0.1.dist-info"
    package.mkdir()
    info.mkdir()
    (package / "__init__.py").write_text(f"import torchvision.half\n{BROKEN}\n")
    (package / "half.py").write_text("")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1\n")
    path = [str(tmp_path)] if torchvision == "broken" else []
    path += filter(None, [os.environ.get("PYTHONPATH")])
    done = subprocess.run(
        [sys.executable, "-c", USER, str(published), first, torchvision],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    assert [True, True, []] == json.loads(done.stdout)


def test_it_equals_another_one_of_the_same_options(options: dict[str, Any]) -> None:
    one, other = Meissonic(**options), Meissonic(**options)
    one.encode_conditions(["a"])
    assert one == other
    assert one != attrs.evolve(other, negative_prompt="")


def test_a_prompt_that_is_cut_is_named_once(options: dict[str, Any], told: list[str]) -> None:
    teacher = Meissonic(**options)
    long = "a red cat " * 40
    teacher.encode_conditions(["a cat"])
    assert [] == [line for line in told if "cuts" in line]
    for prompt in (long, f"{long} again"):
        teacher.encode_conditions([prompt, "a cat"])
    (line,) = (line for line in told if "cuts" in line)
    assert "the text tower reads 77 words and cuts the rest: 'a red cat" in line
