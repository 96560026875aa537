"""From text files to a teacher, from the teacher to a generator, and samples of both, as users run it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from safetensors.torch import load_file

from dimo_core.cli import main as dimo
from dimo_core.config.pretrain import PretrainDraft
from dimo_core.engine.metrics_log import read_metrics
from dimo_core.errors import UsageError
from dimo_core.files.folder import Folder
from dimo_core.jobs.pretrain import pretrain
from dimo_mdlm.teacher import Mdlm
from dimo_text.files import TextFiles

DATA = Path(__file__).parents[1] / "data" / "mdlm"
QUICK = ["--train.sample_every", "0", "--device", "cpu", "--batch-size", "4"]


@pytest.fixture(scope="module", autouse=True)
def _few_samples() -> Iterator[None]:
    """A table of two rows, of few samples."""
    plan = TextFiles.evaluation
    with pytest.MonkeyPatch.context() as patch:
        few = {"samples": 20, "steps": (4, 1)}
        patch.setattr(TextFiles, "evaluation", lambda self: attrs.evolve(plan(self), **few))
        yield


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two kinds of text, six files each."""
    folder = tmp_path_factory.mktemp("books")
    for kind, words in (("cats", "the cat sat on a mat"), ("dogs", "one dog ran far")):
        (folder / kind).mkdir()
        for i in range(6):
            (folder / kind / f"{i}.txt").write_text(f"{words} {i}.\n" * 3)
    return folder


def job(books: Path, out: Path, steps: int, **data: Any) -> Any:
    return PretrainDraft.resolve(
        {
            "teacher": "mdlm",
            "model": {"width": 16, "depth": 1, "heads": 2, "conditioning": 8, "length": 12},
            "data": {"name": "text-files", "path": str(books), **data},
            "objective": {"schedule": "linear", "teacher": {"decay": "constant", "warmup": 0}},
            "train": {"steps": steps, "batch_size": 8, "log_every": 2, "checkpoint_every": 2},
            "out": str(out),
            "device": "cpu",
        }
    )


@pytest.fixture(scope="module")
def teacher(books: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder that `dimo pretrain` wrote."""
    out = tmp_path_factory.mktemp("pretrain") / "run"
    folder = pretrain(job(books, out, 30)).url
    losses = [line["loss"] for line in read_metrics(Folder(str(out)))]
    assert losses[-1] < losses[0]
    rows = json.loads((out / "evaluation.json").read_text())["rows"]
    assert ["teacher, 4 steps", "teacher, 1 step", "real data"] == [row["name"] for row in rows]
    assert all({"ngram_1", "ngram_2", "ngram_3", "entropy"} == row["metrics"].keys() for row in rows)
    return folder


def test_pretraining_makes_a_teacher_of_two_classes(teacher: str) -> None:
    made = Mdlm(checkpoint=teacher)
    assert (("cats", "dogs"), 12) == (made.conditioning.classes, made.tokens.length)
    assert made.evaluation() is not None
    text = made.packed(TextFiles(path=str(made.evaluation().data.options["path"])).load("held-out"))
    lines = made.preview(text.tokens, text.labels).lines
    assert lines is not None
    assert lines[0].startswith("the cat sat ")


def test_pretraining_resumes_bitwise(books: Path, tmp_path: Path) -> None:
    whole = pretrain(job(books, tmp_path / "whole", 6))
    pretrain(job(books, tmp_path / "parts", 4))
    parts = pretrain(job(books, tmp_path / "parts", 6), resume=True)
    expected, actual = (load_file(Path(f.url) / "model.safetensors") for f in (whole, parts))
    assert [] == [name for name in expected if not torch.equal(expected[name], actual[name])]


def test_text_without_classes_makes_the_published_network(books: Path, tmp_path: Path) -> None:
    folder = pretrain(job(books, tmp_path / "run", 2, classes="none")).url
    assert not any("label_embed" in name for name in load_file(Path(folder) / "model.safetensors"))
    assert ("text",) == Mdlm(checkpoint=folder).conditioning.classes


@pytest.mark.parametrize("preset", ["few-step", "idlm", "sdtt"])
def test_presets_distil_it(preset: str, teacher: str, tmp_path: Path) -> None:
    """IDLM and SDTT learn from the text that the teacher was trained on: it names it."""
    out, given = str(tmp_path / "run"), ["--teacher", "mdlm", "--teacher.checkpoint", teacher]
    evaluate = ["--eval.samples", "20", "--eval.enabled", "true" if preset == "few-step" else "false"]
    assert 0 == dimo(["run", *given, "--preset", preset, "--steps", "2", "--out", out, *QUICK, *evaluate])
    assert 0 == dimo(
        ["sample", out, "--count", "3", "--conditions", "dogs", "--out", str(tmp_path / "drawn")]
    )
    lines = (tmp_path / "drawn" / "samples.txt").read_text().splitlines()
    assert 3 == len(lines)
    assert all(line.isprintable() for line in lines)
    record = json.loads((tmp_path / "drawn" / "samples.jsonl").read_text().splitlines()[0])
    assert ("dogs", 12) == (record["condition"], len(record["tokens"]))


def test_adapters_in_half_precision(teacher: str, tmp_path: Path) -> None:
    given = [
        "--teacher",
        "mdlm",
        "--teacher.checkpoint",
        teacher,
        "--generator",
        "lora",
        "--auxiliary",
        "lora",
    ]
    half = ["--train.precision", "bf16", "--train.frozen_dtype", "bf16", "--eval.precision", "bf16"]
    out = str(tmp_path / "run")
    assert 0 == dimo(["run", *given, *half, "--steps", "2", "--out", out, "--eval.enabled", "false", *QUICK])
    names = load_file(tmp_path / "run" / "generator" / "generator.safetensors")
    assert {"attn_qkv", "attn_out", "mlp.0", "mlp.2"} == {
        part for part in ("attn_qkv", "attn_out", "mlp.0", "mlp.2", "sigma_map") for n in names if part in n
    }


def test_the_teacher_is_sampled_by_name(teacher: str, tmp_path: Path) -> None:
    given = ["--teacher", "mdlm", "--teacher.checkpoint", teacher, "--sampling", "ancestral-16"]
    assert 0 == dimo(["sample", *given, "--count", "3", "--out", str(tmp_path / "drawn")])
    record = json.loads((tmp_path / "drawn" / "samples.jsonl").read_text().splitlines()[0])
    assert "mdlm" in str(record["sampler"]).lower()
    assert record["passes"] <= 17


def test_a_published_folder_is_sampled_without_a_tokenizer(tmp_path: Path) -> None:
    given = ["--teacher", "mdlm", "--teacher.checkpoint", str(DATA), "--sampling", "ancestral-16"]
    assert 0 == dimo(["sample", *given, "--count", "2", "--out", str(tmp_path / "drawn")])
    numbers = (tmp_path / "drawn" / "samples.txt").read_text().split()
    assert 24 == len(numbers)
    assert all(0 <= int(number) < 29 for number in numbers)


def test_a_student_of_others_is_converted_and_sampled(lightning: Path, tmp_path: Path) -> None:
    """Its average, which is twice the teacher's weights."""
    given = ["--teacher", "mdlm", "--teacher.checkpoint", str(DATA), "--generator", "few_step"]
    out = tmp_path / "student"
    assert 0 == dimo(["convert", *given, "--generator.init", str(lightning), "--out", str(out)])
    own = load_file(out / "generator.safetensors")
    twice = load_file(DATA / "model.safetensors")
    assert all(torch.equal(2 * twice[f"backbone.{name}"], own[name]) for name in own)
    assert 0 == dimo(["sample", str(out), "--count", "2", "--out", str(tmp_path / "drawn")])


def test_images_are_no_text(tmp_path: Path) -> None:
    images = PretrainDraft.resolve({"teacher": "mdlm", "data": "digits", "out": str(tmp_path / "run")})
    with pytest.raises(UsageError, match=r"learns texts, and these examples are none. Try --data text-files"):
        pretrain(images)
