"""Tokenizers by kind, and the patch codebook as one of them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dimo_core.errors import CheckpointError, UsageError
from dimo_maskgit.codebook import PatchCodebook
from dimo_maskgit.tokenizers import load_tokenizer

SPEC = {"kind": "patches", "channels": 3, "patch": 2, "side": 6}
ROWS = torch.rand(5, 12, generator=torch.Generator().manual_seed(0))


def book() -> PatchCodebook:
    return PatchCodebook(ROWS, channels=3, patch=2, side=6)


def test_a_patch_codebook_describes_itself() -> None:
    assert SPEC == book().spec()
    assert (3, 6, 3, 5) == (book().channels, book().side, book().grid, book().codes)


@pytest.mark.parametrize("without", [(), ("kind",)], ids=["with a kind", "from before there were kinds"])
def test_a_patch_codebook_is_read_back(without: tuple[str, ...]) -> None:
    spec = {name: value for name, value in SPEC.items() if name not in without}
    again = load_tokenizer(spec, book().state_dict(), "a folder")
    assert isinstance(again, PatchCodebook)
    assert SPEC == again.spec()
    assert torch.equal(ROWS, again.rows)


def test_images_of_codes_encode_as_these_codes() -> None:
    x = torch.arange(4 * 9).view(4, 9) % 5
    assert torch.equal(x, book().encode(book().decode(x)))


def test_the_first_patch_is_the_upper_left_one_and_the_second_its_right_neighbour() -> None:
    x = torch.tensor([[1, 2, 0, 0, 0, 0, 0, 0, 0]])
    image = book().decode(x)[0]
    assert torch.equal(ROWS[1].view(3, 2, 2), image[:, :2, :2])
    assert torch.equal(ROWS[2].view(3, 2, 2), image[:, :2, 2:4])


def test_probabilities_decode_as_the_mean_image_with_the_mask_column_as_last_code() -> None:
    x = torch.zeros(1, 9, 6)
    x[..., 1], x[..., 4], x[..., 5] = 0.5, 0.25, 0.25
    ones = torch.ones(1, 9, dtype=torch.int64)
    mean = (book().decode(ones) + book().decode(5 * ones)) / 2
    torch.testing.assert_close(book().decode(x), mean)
    assert torch.equal(book().decode(4 * ones), book().decode(5 * ones))


def test_probabilities_have_a_gradient() -> None:
    x = torch.full((1, 9, 5), 0.2, requires_grad=True)
    book().decode(x).sum().backward()
    torch.testing.assert_close(x.grad, ROWS.sum(1).expand(1, 9, 5))


def test_decoded_images_are_clamped() -> None:
    image = PatchCodebook(torch.tensor([[-1.0], [3.0]]), 1, 1, 1).decode(torch.tensor([[0], [1]]))
    assert [0.0, 1.0] == image.flatten().tolist()


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.arange(7 * 9).view(7, 9) % 5
    images = book().decode(x)
    monkeypatch.setattr(PatchCodebook, "chunk", 3)
    assert torch.equal(images, book().decode(x))
    assert torch.equal(x, book().encode(images))


@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 6, 4), (3, 8, 8)])
def test_images_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"takes images of \[3, 6, 6\] \(channels, height, width\), not"):
        book().encode(torch.zeros(2, *shape))


def test_an_unknown_kind_is_answered_with_the_known_ones() -> None:
    with pytest.raises(CheckpointError, match=r"teacher\.yaml: unknown .* 'vae'\. Known: patches, vqgan\."):
        load_tokenizer({**SPEC, "kind": "vae"}, {}, "teacher.yaml")


@pytest.mark.parametrize(
    "change", [{"patch": 4}, {"patch": 0}, {"side": "six"}, {"depth": 2}, {"channels": None}]
)
def test_a_wrong_description_is_refused(change: dict[str, Any]) -> None:
    spec = {name: value for name, value in {**SPEC, **change}.items() if value is not None}
    with pytest.raises(CheckpointError, match=r"^teacher\.yaml: wrong description of a patch codebook"):
        load_tokenizer(spec, book().state_dict(), "teacher.yaml")


@pytest.mark.parametrize(
    "tensors",
    [{}, {"rows": torch.zeros(5, 8)}, {"rows": torch.zeros(12)}, {"rows": ROWS, "more": ROWS}],
    ids=["missing", "narrow", "flat", "more"],
)
def test_tensors_that_do_not_fit_are_refused(tensors: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match=r"has one tensor, rows \[K, 12\]; found"):
        load_tokenizer(SPEC, tensors, "tokenizer.safetensors")
