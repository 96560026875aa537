"""Your own images: folders and arrays."""

import io
import pickle
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file

from dimo_core.errors import CheckpointError, UsageError
from dimo_images.arrays import Arrays
from dimo_images.decoding import Look, Raw, decoded
from dimo_images.folder import ImageFolder
from dimo_images.parts import part_of


def write_images(folder: Path, counts: dict[str, int], size: tuple[int, int] = (12, 10)) -> Path:
    """Images of one colour each, which tells class and number."""
    for c, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", size, (c * 10, i, 200)).save(folder / name / f"{i:03}.png")
    return folder


@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    held_out=st.sampled_from([0.0, 0.1, 0.5]),
    seed=st.integers(0, 9),
)
def test_parts_are_complete_and_disjoint_and_hold_out_a_share_of_each_class(
    labels: list[int], held_out: float, seed: int
) -> None:
    train = part_of(labels, "train", held_out=held_out, seed=seed)
    rest = set(range(len(labels))) - set(train)
    if rest:
        assert sorted(rest) == part_of(labels, "held-out", held_out=held_out, seed=seed)
    for label in set(labels):
        assert int(held_out * labels.count(label)) == sum(labels[i] == label for i in rest)


def test_the_seed_chooses_what_is_held_out() -> None:
    parts = {tuple(part_of([0] * 50, "held-out", held_out=0.2, seed=seed)) for seed in range(4)}
    assert 4 == len(parts)


def test_an_unknown_or_empty_part_is_refused() -> None:
    with pytest.raises(UsageError, match="train, held-out"):
        part_of([0, 1], "test", held_out=0.5, seed=0)
    with pytest.raises(UsageError, match="held_out"):
        part_of([0, 1], "held-out", held_out=0.1, seed=0)


def test_a_folder_gives_images_with_the_class_of_their_folder(tmp_path: Path) -> None:
    data = ImageFolder(path=str(write_images(tmp_path, {"cat": 6, "ant": 4})), size=8, held_out=0.5)
    train, held_out = data.load("train"), data.load("held-out")
    assert ("train", "held-out") == tuple(data.splits())
    assert ("ant", "cat") == train.classes == held_out.classes
    assert (5, 3, 8, 8) == tuple(train.images.shape) == tuple(held_out.images.shape)
    for examples in (train, held_out):
        assert torch.equal(torch.tensor([10, 0])[examples.labels], examples.images[:, 0, 0, 0].long())
    seen = [sorted(e.images[:, 1, 0, 0][e.labels == 1].tolist()) for e in (train, held_out)]
    assert list(range(6)) == sorted(seen[0] + seen[1])


def test_images_are_cropped_to_the_middle_square(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    picture = Image.new("L", (30, 10), 255)
    picture.paste(0, (10, 0, 20, 10))
    picture.save(tmp_path / "one" / "wide.png")
    examples = ImageFolder(path=str(tmp_path), size=5, channels=1, held_out=0).load("train")
    assert (1, 1, 5, 5) == tuple(examples.images.shape)
    assert 0 == int(examples.images.max())


def test_a_folder_can_be_any_fsspec_url() -> None:
    buffer = io.BytesIO()
    Image.new("L", (4, 4), 7).save(buffer, "png")
    with fsspec.open("memory://test-image-folder/one/a.PNG", "wb") as file:
        file.write(buffer.getvalue())
    data = ImageFolder(path="memory://test-image-folder", size=4, channels=1, held_out=0)
    assert 7 == int(data.load("train").images.min())


def test_hidden_files_other_files_and_files_outside_classes_are_no_images(tmp_path: Path) -> None:
    write_images(tmp_path, {"one": 2, ".cache": 3})
    Image.new("L", (4, 4)).save(tmp_path / "loose.png")
    (tmp_path / "one" / "notes.txt").write_text("no image")
    examples = ImageFolder(path=str(tmp_path), size=4, held_out=0).load("train")
    assert (("one",), 2) == (examples.classes, len(examples))


def test_broken_images_are_survived_up_to_a_limit(tmp_path: Path) -> None:
    write_images(tmp_path, {"one": 5})
    whole = (tmp_path / "one" / "000.png").read_bytes()
    (tmp_path / "one" / "bad-a.png").write_bytes(b"no image at all")
    (tmp_path / "one" / "bad-b.png").write_bytes(whole[: len(whole) // 2])
    data = ImageFolder(path=str(tmp_path), size=4, held_out=0)
    assert 5 == len(data.load("train"))
    with pytest.raises(UsageError, match=r"2 of 7 .*bad-a\.png.*bad-b\.png.*Mend or remove"):
        ImageFolder(path=str(tmp_path), size=4, held_out=0, max_broken=0).load("train")
    for i in range(9):
        (tmp_path / "one" / f"worse-{i}.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"11 of 16 .*share of 0.5"):
        ImageFolder(path=str(tmp_path), size=4, held_out=0, max_broken=0.5).load("train")
    assert 5 == len(ImageFolder(path=str(tmp_path), size=4, held_out=0, max_broken=0.7).load("train"))


def test_a_folder_is_also_a_stream_of_the_same_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dimo_images.folder.SHARD", 4)
    data = ImageFolder(path=str(write_images(tmp_path, {"one": 5, "two": 8})), size=4, held_out=0.2)
    for split, lengths in (("train", [4, 4, 3]), ("held-out", [2])):
        stream, whole = data.open(split), data.load(split)
        shards = [[*stream.read(shard)] for shard in stream.shards]
        assert lengths == [len(shard) for shard in shards]
        pictures = [picture for shard in shards for picture in shard]
        assert torch.equal(whole.images, torch.stack([picture.image for picture in pictures]))
        assert whole.labels.tolist() == [picture.label for picture in pictures]
    assert data.streams


def test_the_shards_of_a_folder_are_named_by_what_is_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dimo_images.folder.SHARD", 4)
    data = ImageFolder(path=str(write_images(tmp_path, {"one": 10})), size=4, held_out=0)
    before = data.open("train").shards
    assert before == data.open("train").shards
    (tmp_path / "one" / "005.png").rename(tmp_path / "one" / "005b.png")
    after = data.open("train").shards
    assert [True, False, True] == [old == new for old, new in zip(before, after, strict=True)]


def test_mirror_images_follow_their_images(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).save(tmp_path / "one" / "a.png")
    data = ImageFolder(path=str(tmp_path), size=4, channels=1, held_out=0, mirrored=True)
    image, mirror = data.load("train").images
    assert torch.arange(16).view(1, 4, 4).tolist() == image.tolist()
    assert torch.equal(image.flip(2), mirror)


def test_only_what_changes_the_pictures_identifies_them() -> None:
    one = ImageFolder(path="photos")
    assert one.identity() == ImageFolder(path="photos", threads=9, max_broken=0.5).identity()
    for other in ({"path": "x"}, {"size": 9}, {"mirrored": True}, {"seed": 1}, {"held_out": 0.2}):
        assert one.identity() != ImageFolder(**{"path": "photos"} | other).identity()


def coloured(mode: str) -> Image.Image:
    """A 2 x 2 image of about (200, 100, 50), or of that gray."""
    image = Image.new("RGB", (2, 2), (200, 100, 50))
    if mode == "I;16":
        return Image.fromarray(np.full((2, 2), 125 * 256 + 17, dtype=np.uint16))
    if mode == "P with transparency":
        image = image.quantize(4)
        image.info["transparency"] = bytes([128, 255])
        return image
    return image.quantize(4) if mode == "P" else image.convert(mode)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "CMYK", "P", "P with transparency", "I;16"])
def test_every_kind_of_colour_becomes_rgb_or_gray(mode: str, channels: Any) -> None:
    buffer = io.BytesIO()
    coloured(mode).save(buffer, "tiff" if mode == "CMYK" else "png")
    image = Look(size=2, channels=channels, mirrored=False).decode(buffer.getvalue())
    gray = 124 if mode != "I;16" else 125
    flat = [gray] if channels == 1 else [gray] * 3 if mode in ("L", "LA", "I;16") else [200, 100, 50]
    assert flat == pytest.approx(image[:, 0, 0].tolist(), abs=1)


def test_scaling_is_pillows_bicubic_filter_on_the_middle_square() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    expected = Image.fromarray(pixels[:, 4:16]).resize((5, 5), Image.Resampling.BICUBIC)
    actual = Look(size=5, channels=3, mirrored=False).decode(buffer.getvalue())
    assert np.array_equal(np.array(expected), actual.permute(1, 2, 0).numpy())


def raw(content: bytes, key: str = "a") -> Raw:
    return Raw(key=key, label=0, read=lambda: content)


def test_images_too_large_to_decode_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    Image.new("L", (20, 20)).save(buffer, "png")
    for limit in (300, 100):  # Pillow warns of the first, and refuses the second
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (picture,) = Look(size=2, channels=1, mirrored=True).pictures(raw(buffer.getvalue()))
        assert (None, True) == (picture.image, "pixels" in picture.error)


def test_formats_that_start_other_programs_are_not_decoded() -> None:
    (picture,) = Look(size=2, channels=1, mirrored=False).pictures(raw(b"%!PS-Adobe-3.0 EPSF-3.0\n"))
    assert picture.error.startswith("none of the formats BMP")


def test_many_images_keep_their_order_and_few_wait() -> None:
    taken = []

    def raws() -> Iterator[Raw]:
        for i in range(100):
            taken.append(i)
            yield Raw(key=str(i), label=i, read=partial(png, i))

    pictures = decoded(raws(), Look(size=1, channels=1, mirrored=False), threads=3)
    first = next(pictures)
    assert len(taken) < 20
    assert [*range(100)] == [p.label for p in [first, *pictures]]


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (1, 1), value).save(buffer, "png")
    return buffer.getvalue()


def test_a_folder_of_broken_images_only_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "bad.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"bad\.png"):
        ImageFolder(path=str(tmp_path), held_out=0).load("train")


@pytest.mark.parametrize("folder", ["", "missing", "class-without-images"])
def test_a_folder_without_images_is_an_error(tmp_path: Path, folder: str) -> None:
    (tmp_path / "class-without-images" / "one").mkdir(parents=True)
    with pytest.raises(UsageError, match="CLASS/IMAGE"):
        ImageFolder(path=str(tmp_path / folder)).load("train")


def stored(count: int = 10, shape: tuple[int, ...] = (1, 4, 6)) -> dict[str, Any]:
    images = np.arange(count * int(np.prod(shape))).reshape(count, *shape).astype(np.uint8)
    return {"images": images, "labels": np.arange(count) % 2}


@pytest.fixture(params=["safetensors", "npz"])
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Saves arrays to a file of either format, and returns its path."""

    def write(arrays: dict[str, Any]) -> str:
        path = tmp_path / f"data.{request.param}"
        if request.param == "npz":
            np.savez_compressed(path, **arrays)
        else:
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
        return str(path)

    return write


def test_arrays_come_back_with_labels_and_class_names(save: Any) -> None:
    arrays = stored()
    examples = Arrays(path=save(arrays), held_out=0).load("train")
    assert torch.equal(torch.from_numpy(arrays["images"]), examples.images)
    assert torch.equal(torch.from_numpy(arrays["labels"]), examples.labels)
    assert ("0", "1") == examples.classes
    named = Arrays(path=save(arrays), held_out=0.4, classes=("a", "b", "c"))
    assert (("a", "b", "c"), 4, 6) == (
        named.load("train").classes,
        len(named.load("held-out")),
        len(named.load("train")),
    )


@pytest.mark.parametrize(
    ("shape", "layout", "result"),
    [
        ((3, 4, 6), "auto", (3, 4, 6)),
        ((4, 6, 3), "auto", (3, 4, 6)),
        ((4, 6), "auto", (1, 4, 6)),
        ((3, 4, 3), "NHWC", (3, 3, 4)),
        ((3, 4, 3), "NCHW", (3, 4, 3)),
    ],
)
def test_the_channel_axis_is_found_or_given(
    save: Any, shape: tuple[int, ...], layout: Any, result: tuple[int, ...]
) -> None:
    arrays = stored(shape=shape)
    examples = Arrays(path=save(arrays), layout=layout, held_out=0).load("train")
    assert result == tuple(examples.images.shape[1:])
    if shape[-1] == 3 and layout != "NCHW":
        assert arrays["images"][2, 1, 0, 2] == examples.images[2, 2, 1, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((10, 4, 4))}, "uint8"),
        ({"images": np.zeros((10, 4), np.uint8)}, "uint8"),
        ({"images": np.zeros((0, 1, 4, 4), np.uint8)}, "uint8"),
        ({"images": np.zeros((10, 3, 4, 3), np.uint8)}, "layout"),
        ({"images": np.zeros((10, 5, 4, 4), np.uint8)}, "layout"),
        ({"labels": np.zeros(9, np.int64)}, "10 integers"),
        ({"labels": np.zeros(10)}, "10 integers"),
        ({"labels": np.full(10, -1)}, "smallest -1"),
    ],
)
def test_arrays_of_another_kind_are_refused(save: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Arrays(path=save(stored() | change)).load("train")


def test_too_few_class_names_are_refused(save: Any) -> None:
    with pytest.raises(UsageError, match="labels up to 1, but 1 classes"):
        Arrays(path=save(stored()), classes=("a",)).load("train")


def test_a_missing_array_is_named(save: Any) -> None:
    with pytest.raises(UsageError, match="no array labels; it holds: images"):
        Arrays(path=save({"images": stored()["images"]})).load("train")


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_a_foreign_file_is_refused_and_not_executed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"data.{suffix}"
    path.write_bytes(pickle.dumps({"images": 1}))
    with pytest.raises(CheckpointError, match="cannot read arrays"):
        Arrays(path=str(path)).load("train")


def test_pickled_objects_inside_an_npz_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", images=np.array([{"a": 1}], dtype=object), labels=np.zeros(1, int))
    with pytest.raises(CheckpointError, match="allow_pickle"):
        Arrays(path=str(tmp_path / "data.npz")).load("train")


def test_a_file_of_another_format_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.safetensors, \.npz"):
        Arrays(path="data.pt").load("train")
    with pytest.raises(CheckpointError, match="cannot read"):
        Arrays(path=str(tmp_path / "none.npz")).load("train")


def test_a_label_beyond_all_classes_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 8, 8, 1), np.uint8), labels=np.array([0, 10**8]))
    with pytest.raises(UsageError, match="labels up to 100,000,000, and there may be 1,000,000 classes"):
        Arrays(path=str(tmp_path / "a.npz")).load("train")
