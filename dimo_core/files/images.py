"""Pictures as files: finding, reading and writing them."""

import io
import re
from typing import Any

import fsspec
import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from dimo_core.errors import SourceError

RECORDS = "samples.jsonl"
"""One line a sample; it is written when all else is there."""

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def picture_files(url: str) -> list[str]:
    """Paths of all pictures below a folder, sorted; empty when there are none."""
    filesystem, root = fsspec.core.url_to_fs(url.rstrip("/"))
    found = [path for path in filesystem.find(root) if path.lower().endswith(SUFFIXES)]
    return sorted(path for path in found if not re.search(r"/\.", path[len(root) :]))


def read_picture(filesystem: Any, path: str) -> UInt8[Tensor, "C H W"]:
    """One picture: gray ones with one channel, others with three."""
    try:
        with Image.open(io.BytesIO(filesystem.cat_file(path))) as image:
            array = np.array(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise SourceError(f"cannot read the picture {path}: {error}. Mend or remove it.") from error
    tensor = torch.from_numpy(array)
    return tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1).contiguous()


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
