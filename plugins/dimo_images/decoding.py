"""From the bytes of an image file to pixels of one size: ``Look``, and ``decoded`` for many at once."""

import io
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Literal

import attrs
import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from dimo_core.sources import Picture

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is decoded. Pillow knows more, some of it (EPS) by starting other programs."""


@attrs.frozen(kw_only=True)
class Raw:
    """An image that is not decoded yet, or why it cannot be.

    Attributes:
        key: What people find it by.
        label: Class index.
        read: Gives the bytes of the file.
        error: What is wrong already; ``read`` is then not called.
        lost: Whether the rest of the shard is lost too.
    """

    key: str
    label: int = -1
    read: Callable[[], bytes] = bytes
    error: str = ""
    lost: bool = False


@attrs.frozen(kw_only=True)
class Look:
    """What an image becomes.

    Attributes:
        size: Height and width in pixels.
        channels: 3 for colour, 1 for gray.
        mirrored: Whether its mirror image follows.
    """

    size: int
    channels: Literal[1, 3]
    mirrored: bool

    def pictures(self, raw: Raw) -> list[Picture]:
        """The picture, and its mirror image where wanted; one broken picture if it cannot be decoded."""
        if raw.error:
            return [Picture(key=raw.key, error=raw.error, lost=raw.lost)]
        try:
            image = self.decode(raw.read())
        except Exception as error:  # a damaged file makes Pillow raise whatever its decoder stumbles over
            return [Picture(key=raw.key, error=_reason(error))]
        picture = Picture(key=raw.key, label=raw.label, image=image)
        return [picture, attrs.evolve(picture, image=image.flip(-1))] if self.mirrored else [picture]

    def decode(self, content: bytes) -> UInt8[Tensor, "C H W"]:
        """Turn as EXIF says, crop to the middle square, scale with Pillow's antialiased bicubic filter.

        Raises:
            Exception: of any kind, when the file is damaged, foreign or too large.
        """
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and opened.width * opened.height > limit:
                raise Image.DecompressionBombError(
                    f"{opened.width} x {opened.height} pixels are more than {limit}"
                )
            image = _converted(ImageOps.exif_transpose(opened), self.channels)
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        pixels = torch.from_numpy(np.array(square.resize((self.size, self.size), Image.Resampling.BICUBIC)))
        return pixels[None] if self.channels == 1 else pixels.permute(2, 0, 1).contiguous()


def _converted(image: Image.Image, channels: int) -> Image.Image:
    """As RGB or gray; transparency is dropped."""
    if image.mode.startswith("I;16"):  # Pillow would clip 16 bits to 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB" if channels == 3 else "L")


def _reason(error: Exception) -> str:
    """In one line, without addresses of objects."""
    if isinstance(error, UnidentifiedImageError):
        return f"none of the formats {', '.join(FORMATS)}"
    if isinstance(error, zlib.error | OSError | ValueError | SyntaxError | Image.DecompressionBombError):
        return " ".join(str(error).split()) or type(error).__name__
    return " ".join(f"{type(error).__name__}: {error}".split())


def decoded(raws: Iterator[Raw], look: Look, threads: int) -> Iterator[Picture]:
    """The pictures of many images, in their order.

    Args:
        raws: The images.
        look: What they become.
        threads: How many are decoded at once; four times as many are held undecoded.
    """
    with ThreadPoolExecutor(threads, "decode") as pool:
        waiting: deque[Future[list[Picture]]] = deque()
        try:
            for raw in raws:
                waiting.append(pool.submit(partial(look.pictures, raw)))
                if len(waiting) > 4 * threads:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
