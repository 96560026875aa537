"""Pictures as files: finding, reading and writing them."""

import io
import os
from collections.abc import Iterator
from typing import Any

import attrs
import fsspec
import numpy as np
from jaxtyping import UInt8
from loguru import logger
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor, from_numpy

from dimo_core.errors import SourceError
from dimo_core.files.urls import client_options

RECORDS = "samples.jsonl"
"""One line a sample; it is written when all else is there."""

GRID = "grid.png"
"""The sheet of samples that lies beside them, and is none."""

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings of pictures."""

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is read, whatever the ending. Pillow knows more, some of it (EPS) by starting other programs."""

SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N", "I")
"""Pillow's modes of gray pictures of 16 bits."""


@attrs.frozen(kw_only=True)
class Listing:
    """The files below a folder, links followed.

    Attributes:
        filesystem: Where they are.
        root: Path of the folder.
        pictures: Path and facts of each file with the ending of a picture, sorted by path.
        others: Paths of what is none: other endings, hidden files, what is no file.
    """

    filesystem: Any
    root: str
    pictures: tuple[tuple[str, dict[str, Any]], ...]
    others: tuple[str, ...]

    @classmethod
    def of(cls, url: str) -> "Listing":
        """List a folder, a path or fsspec URL of one; empty when there is none."""
        filesystem, root = fsspec.core.url_to_fs(url.rstrip("/") or url, **client_options(url))
        pictures: list[tuple[str, dict[str, Any]]] = []
        others: list[tuple[str, dict[str, Any]]] = []
        for path, facts in sorted(_files(filesystem, root, ()), key=lambda found: found[0]):
            hidden = "/." in path[len(root) :]
            there = facts.get("type") == "file" or facts.get("islink")  # one that leads nowhere is broken
            is_picture = there and path.lower().endswith(SUFFIXES) and not hidden
            (pictures if is_picture else others).append((path, facts))
        return cls(
            filesystem=filesystem,
            root=root,
            pictures=tuple(pictures),
            others=tuple(path for path, _ in others),
        )

    def tell(self) -> None:
        """Log what was left out."""
        if self.others:
            named = ", ".join(path[len(self.root) :].lstrip("/") for path in self.others[:FEW])
            more = ", ..." if len(self.others) > FEW else ""
            logger.warning(
                "left out of {}: {} files that are no pictures ({}{})",
                self.root,
                len(self.others),
                named,
                more,
            )


FEW = 5
"""Files that were left out which the log names."""


def _files(filesystem: Any, root: str, above: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """All files; a link to a folder that holds the link is not followed.

    Args:
        filesystem: Where they are.
        root: Path of a folder.
        above: Where the folders truly are through which links led here.
    """
    chain = (*above, os.path.realpath(root)) if "file" in filesystem.protocol else above
    for path, facts in filesystem.find(root, detail=True).items():
        if facts.get("islink") and os.path.isdir(path):
            target = os.path.realpath(path)
            if not any(
                f"{folder}/".startswith(f"{target}/")
                for folder in (*chain, os.path.realpath(os.path.dirname(path)))
            ):
                yield from _files(filesystem, path, chain)
        else:
            yield path, filesystem.info(path) if facts.get("islink") and os.path.exists(path) else facts


def open_picture(content: bytes) -> Image.Image:
    """A picture from the bytes of its file: its first frame, turned as EXIF says, gray ("L") or "RGB".

    Of 16 bits the upper 8 are kept; transparency is dropped.

    Raises:
        ValueError: in one line, when the file is damaged, foreign, or has too many pixels.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and opened.width * opened.height > limit:
                raise ValueError(f"{opened.width} x {opened.height} pixels are more than {limit}")
            return _plain(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError:
        raise ValueError(f"none of the formats {', '.join(FORMATS)}") from None
    except Exception as error:  # a damaged file makes Pillow raise whatever its decoder stumbles over
        known = isinstance(error, OSError | ValueError | SyntaxError | Image.DecompressionBombError)
        kind = "" if known and str(error) else f"{type(error).__name__}: "
        raise ValueError(" ".join(f"{kind}{error}".split())) from error


def _plain(image: Image.Image) -> Image.Image:
    """As gray or RGB."""
    if image.mode in SIXTEEN:  # Pillow would clip them to 255
        array = np.asarray(image)
        if array.min() < 0 or array.max() >= 2**16:
            raise ValueError("its pixels have more than 16 bits")
        return Image.fromarray((array >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB")


def read_picture(filesystem: Any, path: str) -> UInt8[Tensor, "C H W"]:
    """One picture: gray ones with one channel, others with three.

    Raises:
        SourceError: if it cannot be read.
    """
    try:
        return pixels(open_picture(filesystem.cat_file(path)))
    except (OSError, ValueError) as error:
        raise SourceError(f"cannot read the picture {path}: {error}. Mend or remove it.") from error


def pixels(image: Image.Image) -> UInt8[Tensor, "C H W"]:
    """The pixels of a gray or RGB picture."""
    array = from_numpy(np.array(image))
    return array[None] if array.ndim == 2 else array.permute(2, 0, 1).contiguous()


def png(image: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def image_png(image: UInt8[Tensor, "C H W"]) -> bytes:
    """One image as a PNG file."""
    return png(as_image(image))


def image_jpeg(image: UInt8[Tensor, "C H W"]) -> bytes:
    """One image as a JPEG file."""
    file = io.BytesIO()
    as_image(image).save(file, "JPEG", quality=95)
    return file.getvalue()


def as_image(image: UInt8[Tensor, "C H W"]) -> Image.Image:
    """uint8 pixels as a Pillow image: gray, or RGB."""
    array = image.cpu().permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
