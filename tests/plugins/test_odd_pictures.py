"""Odd pictures: every user of pictures reads them alike, or says alike what is wrong with them."""

import io
import struct
import tarfile
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dimo_core.conditions import Conditioning
from dimo_core.errors import SourceError
from dimo_core.evaluation.reference import picture_batches
from dimo_images.folder import ImageFolder
from dimo_images.shards import ImageShards

SIZE = 8
RAMP = np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE) * 2


def saved(image: Image.Image, form: str = "png", **how: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **how)
    return buffer.getvalue()


def gray() -> Image.Image:
    return Image.fromarray(RAMP)


def colour() -> Image.Image:
    return Image.fromarray(np.stack([RAMP, RAMP.T, 255 - RAMP], axis=-1))


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    return saved(colour().transpose(Image.Transpose.ROTATE_180), exif=exif)


def palette() -> Image.Image:
    image = Image.fromarray(RAMP // 2, mode="P")
    image.putpalette([c for i in range(256) for c in ((2 * i) % 256, 0, 0)])
    image.info["transparency"] = bytes([0] * 128)
    return image


def absurd() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


GRAY = torch.from_numpy(RAMP)[None]
COLOUR = torch.from_numpy(np.array(colour())).permute(2, 0, 1)
RED = torch.cat([GRAY // 2 * 2, torch.zeros(2, SIZE, SIZE, dtype=torch.uint8)])

READ: dict[str, tuple[Callable[[], bytes], Tensor]] = {
    "sixteen bits": (lambda: saved(Image.fromarray(RAMP.astype(np.uint16) * 256 + 17)), GRAY),
    "turned by EXIF": (turned, COLOUR),
    "palette with transparency": (lambda: saved(palette()), RED),
    "gray with transparency": (lambda: saved(gray().convert("LA")), GRAY),
    "colour with transparency": (lambda: saved(colour().convert("RGBA")), COLOUR),
    "animated": (lambda: saved(colour(), save_all=True, append_images=[colour().rotate(90)]), COLOUR),
    "TIFF with a wrong ending": (lambda: saved(colour(), "tiff"), COLOUR),
}
BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (bytes, "none of the formats"),
    "EPS": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "none of the formats"),
    "cut": (lambda: saved(colour())[:-60], "(?i:truncated|broken|incomplete)"),
    "absurd": (absurd, "pixels"),
    "floating point": (lambda: saved(Image.fromarray(RAMP.astype(np.float32)), "tiff"), "floating-point"),
}


@pytest.fixture
def places(tmp_path: Path) -> Callable[[bytes], Path]:
    """A folder ``pictures/one`` and a shard ``a.tar`` with one file."""

    def write(content: bytes) -> Path:
        (tmp_path / "pictures" / "one").mkdir(parents=True)
        (tmp_path / "pictures" / "one" / "a.png").write_bytes(content)
        with tarfile.open(tmp_path / "a.tar", "w") as tar:
            for name, data in (("a.png", content), ("a.cls", b"0")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        return tmp_path

    return write


def streamed(place: Path, channels: Any) -> dict[str, Any]:
    """What the two sources of training images make of it."""
    common = {"size": SIZE, "channels": channels}
    streams = {
        "folder": ImageFolder(path=str(place / "pictures"), held_out=0, **common).open("train"),
        "shards": ImageShards(url=str(place / "a.tar"), classes=1, **common).open("train"),
    }
    return {name: next(iter(stream.read(stream.shards[0]))) for name, stream in streams.items()}


@pytest.mark.parametrize("kind", READ)
def test_an_odd_picture_is_the_same_to_all(kind: str, places: Callable[[bytes], Path]) -> None:
    make, expected = READ[kind]
    place = places(make())
    (batch,) = picture_batches(str(place / "pictures"), Conditioning(kind="label"), 4)
    assert batch.images is not None
    assert torch.equal(batch.images[0], expected)
    for picture in streamed(place, channels=len(expected)).values():
        assert torch.equal(picture.image, expected)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_picture_is_explained_alike_to_all(kind: str, places: Callable[[bytes], Path]) -> None:
    make, reason = BROKEN[kind]
    place = places(make())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SourceError, match=rf"a\.png: .*({reason}).*Mend or remove it") as told:
            next(picture_batches(str(place / "pictures"), Conditioning(kind="label"), 4))
        for picture in streamed(place, channels=3).values():
            assert picture.image is None
            assert picture.error in str(told.value)
    assert "\n" not in str(told.value)


def test_links_are_followed_once_around(tmp_path: Path) -> None:
    for name in ("data/cat", "elsewhere/dog"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.png").write_bytes(saved(gray()))
    (tmp_path / "data/dog").symlink_to(tmp_path / "elsewhere/dog")
    (tmp_path / "data/cat/2.png").symlink_to(tmp_path / "elsewhere/dog/1.png")
    (tmp_path / "data/cat/around").symlink_to(tmp_path / "data")
    (tmp_path / "elsewhere/dog/back").symlink_to(tmp_path / "data")
    (tmp_path / "data/cat/gone.png").symlink_to(tmp_path / "nowhere.png")
    stream = ImageFolder(path=str(tmp_path / "data"), size=SIZE, held_out=0).open("train")
    pictures = [picture for shard in stream.shards for picture in stream.read(shard)]
    assert ("cat", "dog") == stream.classes
    assert [("1.png", 0), ("2.png", 0), ("1.png", 1)] == [
        (Path(picture.key).name, picture.label) for picture in pictures if picture.image is not None
    ]
    assert ["gone.png"] == [Path(picture.key).name for picture in pictures if picture.image is None]


def test_what_is_left_out_is_counted_and_named(tmp_path: Path, told: list[str]) -> None:
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(saved(gray()))
    (tmp_path / "val" / "b.heic").write_bytes(b"")
    (tmp_path / "loose.png").write_bytes(saved(gray()))
    data = ImageFolder(path=str(tmp_path), size=SIZE, held_out=0)
    assert 2 == len(data.load("train"))
    lines = "".join(told)
    assert "1 files that are no pictures (val/b.heic)" in lines
    assert "2 classes: train, val" in lines
    assert "is one of them meant as --data.path?" in lines
    assert "loose.png (it is in no folder of a class)" in lines
