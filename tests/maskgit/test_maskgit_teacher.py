"""The embedded teacher, its codebook, teacher folders, and pretraining."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import dimo_maskgit
from dimo_core.cli import main as dimo
from dimo_core.config.pretrain import PretrainDraft
from dimo_core.engine.checkpoint import complete_steps
from dimo_core.engine.metrics_log import read_metrics
from dimo_core.errors import CheckpointError, StorageError, UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import load_generator
from dimo_core.jobs.pretrain import pretrain
from dimo_core.sources import Examples
from dimo_core.testing import check_options, check_teacher
from dimo_digits.data import Digits
from dimo_maskgit.codebook import PatchCodebook, fit_codebook
from dimo_maskgit.pretraining import Pretraining
from dimo_maskgit.teacher import MaskGit

EMBEDDED = Path(dimo_maskgit.__file__).parent / "embedded"
PATCHES = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def test_the_embedded_teacher_passes_the_conformance_kit() -> None:
    check_teacher(MaskGit(), [0, 1])
    check_teacher(MaskGit(mask_logit="keep"), [0, 1])
    check_options(MaskGit())


def test_the_embedded_files_are_those_of_their_digests_and_small() -> None:
    assert sum(f.stat().st_size for f in EMBEDDED.iterdir()) < 4_000_000
    assert MaskGit().network()  # reading checks the SHA-256
    assert {"folder", "network.safetensors", "tokenizer.safetensors"} == set(MaskGit().provenance())


def test_the_card_names_no_path_of_a_machine() -> None:
    text = (EMBEDDED / "teacher.yaml").read_text()
    assert "/" not in text.replace("dimo-maskgit/1", "")


def test_images_of_codes_encode_to_their_codes() -> None:
    teacher = MaskGit()
    x = torch.randint(64, (32, 16), generator=torch.Generator().manual_seed(1))
    c = torch.zeros(32, dtype=torch.long)
    assert torch.equal(x, teacher.encode(teacher.decode(x, c), c))


def test_decoding_probabilities_is_differentiable_and_one_hot_rows_decode_as_tokens() -> None:
    teacher = MaskGit()
    x = torch.arange(16)[None]
    c = torch.tensor([0])
    p = torch.nn.functional.one_hot(x, 64).float().requires_grad_()
    images = teacher.decode(p, c)
    torch.testing.assert_close(images.detach(), teacher.decode(x, c))
    images.sum().backward()
    assert bool(p.grad.any())


def test_a_drawn_mask_token_shows_as_the_last_code() -> None:
    teacher = MaskGit(mask_logit="keep")
    c = torch.tensor([0])
    mask, last = torch.full((1, 16), 64), torch.full((1, 16), 63)
    assert torch.equal(teacher.decode(mask, c), teacher.decode(last, c))


@pytest.mark.parametrize("wrong", ["evn", 2, -1, None])
def test_an_unknown_class_is_named(wrong: Any) -> None:
    with pytest.raises(UsageError, match=r"unknown class .*Known: even, odd; or an index from 0 to 1"):
        MaskGit().encode_conditions([wrong])


def test_class_names_and_indices_are_the_same_condition() -> None:
    assert torch.equal(MaskGit().encode_conditions(["even", "odd"]), MaskGit().encode_conditions([0, 1]))


def test_a_folder_without_a_teacher_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no teacher in .* teacher.yaml is missing(.|\n)*dimo convert"):
        MaskGit(checkpoint=str(tmp_path)).recipes()


def test_a_damaged_weights_file_is_refused(tmp_path: Path) -> None:
    teacher = MaskGit()
    teacher.save(str(tmp_path), teacher.network(), {})
    data = bytearray((tmp_path / "network.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "network.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match="is damaged"):
        MaskGit(checkpoint=str(tmp_path)).network()


def test_a_saved_teacher_is_the_same_teacher() -> None:
    teacher = MaskGit()
    teacher.save("memory://teachers/copy", teacher.network(), {})
    again = MaskGit(checkpoint="memory://teachers/copy")
    own, copied = teacher.network().state_dict(), again.network().state_dict()
    assert all(torch.equal(own[name], copied[name]) for name in own)
    assert (teacher.tokens, teacher.conditioning, teacher.evaluation()) == (
        again.tokens,
        again.conditioning,
        again.evaluation(),
    )


def test_a_codebook_with_a_row_for_each_patch_reconstructs_exactly() -> None:
    images = (PATCHES[:2] * 255).round() / 255
    book = PatchCodebook(fit_codebook(images, 8, 2, seed=0), channels=1, patch=2, side=4)
    torch.testing.assert_close(book.decode(book.encode(images)), images)


def test_more_codes_reconstruct_better() -> None:
    errors = []
    for codes in (4, 16, 64):
        book = PatchCodebook(fit_codebook(PATCHES, codes, 2, seed=0), channels=1, patch=2, side=4)
        errors.append(float((book.decode(book.encode(PATCHES)) - PATCHES).square().mean()))
    assert errors[0] > errors[1] > errors[2]


def test_a_fit_repeats_exactly() -> None:
    assert torch.equal(fit_codebook(PATCHES, 16, 2, seed=3), fit_codebook(PATCHES, 16, 2, seed=3))


def test_too_many_codes_are_refused() -> None:
    flat = Examples(
        images=torch.zeros(4, 1, 4, 4, dtype=torch.uint8),
        labels=torch.zeros(4, dtype=torch.long),
        classes=("a",),
    )
    with pytest.raises(UsageError, match=r"1 distinct patches cannot make 8 codes"):
        MaskGit.create(Pretraining(codes=8), flat, evaluation=None, seed=0)


def test_images_that_do_not_divide_into_patches_are_refused() -> None:
    with pytest.raises(UsageError, match=r"8x8 pixels do not divide into patches of 3"):
        MaskGit.create(Pretraining(patch=3), Digits().load("reader"), evaluation=None, seed=0)


def test_a_given_tokenizer_is_taken_over(tmp_path: Path) -> None:
    MaskGit().save(str(tmp_path), MaskGit().network(), {})
    made = MaskGit.create(
        Pretraining(tokenizer=str(tmp_path)), Digits().load("reader"), evaluation=None, seed=0
    )
    assert torch.equal(made._tokenizer.codebook, MaskGit()._tokenizer.codebook)


def pretraining(out: Path, steps: int) -> Any:
    return PretrainDraft.resolve(
        {
            "teacher": "maskgit",
            "model": {"width": 16, "depth": 1, "heads": 2, "mlp": 32, "codes": 16},
            "data": {"name": "digits", "classes": "digit"},
            "objective": {"name": "masked-modelling", "teacher": {"decay": "constant"}},
            "train": {"steps": steps, "batch_size": 16, "log_every": 2, "checkpoint_every": 2},
            "out": str(out),
            "device": "cpu",
        }
    )


@pytest.fixture
def without_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Digits, "evaluation", lambda self: None)


@pytest.mark.usefixtures("without_evaluation")
def test_pretraining_writes_a_teacher_that_can_be_distilled_and_resumes_bitwise(tmp_path: Path) -> None:
    whole = pretrain(pretraining(tmp_path / "whole", 6))
    teacher = MaskGit(checkpoint=whole.url)
    assert (16, 16, 10) == (teacher.tokens.length, teacher.tokens.codes, len(teacher.conditioning.classes))
    losses = [line["loss"] for line in read_metrics(Folder(str(tmp_path / "whole")))]
    assert losses[-1] < losses[0]

    pretrain(pretraining(tmp_path / "parts", 4))
    parts = pretrain(pretraining(tmp_path / "parts", 6), resume=True)
    expected, actual = (MaskGit(checkpoint=folder.url).network().state_dict() for folder in (whole, parts))
    assert [] == [name for name in expected if not torch.equal(expected[name], actual[name])]


@pytest.mark.usefixtures("without_evaluation")
def test_pretraining_refuses_a_folder_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        pretrain(pretraining(tmp_path, 2))


def test_a_teacher_folder_that_is_not_complete_is_found_before_a_run_is_started(
    tmp_path: Path, capsys: Any
) -> None:
    MaskGit().save(str(tmp_path / "teacher"), MaskGit().network(), {})
    (tmp_path / "teacher" / "tokenizer.safetensors").unlink()
    given = ["--teacher.checkpoint", str(tmp_path / "teacher"), "--out", str(tmp_path / "out")]
    assert 1 == dimo(["run", *given])
    assert "tokenizer.safetensors: the teacher folder is not complete" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_remote_teacher_works_without_a_connection_once_it_was_fetched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = "memory://teachers/remote"
    MaskGit().save(url, MaskGit().network(), {})
    c = torch.zeros(1, dtype=torch.long)
    first = MaskGit(checkpoint=url)
    expected = first.network().state_dict(), first.decode(torch.zeros(1, 16, dtype=torch.long), c)

    def cut(self: Folder, *_: str) -> bool:
        raise StorageError(f"cannot look up {self.url!r}")

    Folder(url).remove()
    monkeypatch.setattr(Folder, "exists", cut)
    again = MaskGit(checkpoint=url)
    again.check()
    assert all(
        torch.equal(expected[0][name], tensor) for name, tensor in again.network().state_dict().items()
    )
    assert torch.equal(expected[1], again.decode(torch.zeros(1, 16, dtype=torch.long), c))


@pytest.mark.parametrize(
    ("size", "reason"), [("depth", "10,000,000 layers; 10,000 is the most"), ("width", "about .* parameters")]
)
def test_sizes_beyond_any_machine_are_refused_before_a_network_is_built(
    tmp_path: Path, size: str, reason: str
) -> None:
    folder = tmp_path / "teacher"
    shutil.copytree(EMBEDDED, folder)
    card = yaml.safe_load((folder / "teacher.yaml").read_text())
    card["network"][size] = 10**7
    (folder / "teacher.yaml").write_text(yaml.safe_dump(card))
    with pytest.raises(CheckpointError, match=reason):
        MaskGit(checkpoint=str(folder)).skeleton()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The embedded teacher as it would be saved, with a checksum in its card."""
    MaskGit().save(str(tmp_path / "t"), MaskGit().network(), {})
    return tmp_path / "t"


def test_a_card_that_was_cut_or_changed_is_refused(folder: Path) -> None:
    card = folder / "teacher.yaml"
    lines = card.read_text().splitlines(keepends=True)
    harmed = ["".join(lines[:count]) for count in range(1, len(lines), 3)]
    harmed.append("".join(lines).replace("heads: 4", "heads: 2"))  # no tensor tells their number
    assert MaskGit(checkpoint=str(folder)).architecture.heads == 4
    for text in harmed:
        card.write_text(text)
        with pytest.raises(CheckpointError, match=r"teacher\.yaml"):
            _ = MaskGit(checkpoint=str(folder)).architecture


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("classes", ["even"], "has not the names of 2 classes"),
        ("classes", [1, 2], "has not the names of 2 classes"),
        ("classes", None, "lacks the entry 'classes'"),
        ("network", {}, "lacks the entry 'network.classes'"),
        ("tokenizer", "patches", "is damaged at the entry 'tokenizer'"),
        ("recipes", "large", "recipes 'large' are none of small, imagenet"),
        ("evaluation", {"metric": []}, "section 'evaluation'"),
        ("sha256", {}, "lacks the entry 'sha256.network.safetensors'"),
    ],
)
def test_a_card_with_a_wrong_entry_names_it(folder: Path, key: str, value: Any, message: str) -> None:
    card = folder / "teacher.yaml"
    card.write_text(yaml.safe_dump({**yaml.safe_load(card.read_text()), key: value}))
    teacher = MaskGit(checkpoint=str(folder))
    with pytest.raises(CheckpointError, match=rf"teacher\.yaml.*{message}"):
        _ = (teacher.conditioning, teacher.tokens, teacher.evaluation(), teacher.recipes())


def test_relative_paths_are_kept_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    teacher = MaskGit(checkpoint="t/x.pth", tokenizer="t/v", class_names="names.txt")
    expected = [f"{tmp_path}/t/x.pth", f"{tmp_path}/t/v", f"{tmp_path}/names.txt"]
    assert expected == [teacher.checkpoint, teacher.tokenizer, teacher.class_names]


def test_a_run_with_a_relative_teacher_is_used_and_resumed_from_any_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    options = ["--steps", "1", "--batch-size", "2", "--eval.enabled", "false", "--train.sample_every", "0"]
    assert dimo(["run", "--teacher.checkpoint", "t", *options, "--out", "r"]) == 0
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    run = str(folder.parent / "r")
    teacher, _ = load_generator(f"{run}/generator")
    assert teacher == MaskGit(checkpoint=str(folder))
    assert dimo(["run", "--resume", run, "--steps", "2"]) == 0
    assert [1, 2] == complete_steps(Folder(f"{run}/checkpoints"))


def test_a_pretraining_is_not_resumed_on_other_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model.width", "16", "--model.depth", "1", "--model.heads", "2", "--batch-size", "2"]
    monkeypatch.setattr(Digits, "evaluation", lambda _: None)
    out = str(tmp_path / "t")
    assert dimo(["pretrain", "--data", "digits", *options, "--steps", "1", "--out", out]) == 0
    assert dimo(["pretrain", "--resume", out, "--steps", "2"]) == 0
    load = Digits.load

    def other(self: Digits, split: str) -> Examples:
        examples = load(self, split)
        examples.images[0, 0, 0, 0] += 1
        return examples

    monkeypatch.setattr(Digits, "load", other)
    capsys.readouterr()
    assert dimo(["pretrain", "--resume", out, "--steps", "3"]) == 1
    assert "have changed: the SHA-256 of data is another" in capsys.readouterr().err
