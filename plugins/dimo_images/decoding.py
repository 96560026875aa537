"""From the bytes of an image file to pixels of one size: ``Look``, and ``decoded`` for many at once."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Literal

import attrs
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from dimo_core.files.images import open_picture, pixels
from dimo_core.files.urls import told
from dimo_core.sources import Picture


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
            content = raw.read()
        except Exception as error:  # each file system raises its own
            return [Picture(key=raw.key, error=" ".join(told(error).split()))]
        try:
            image = self.decode(content)
        except ValueError as error:
            return [Picture(key=raw.key, error=str(error))]
        picture = Picture(key=raw.key, label=raw.label, image=image)
        return [picture, attrs.evolve(picture, image=image.flip(-1))] if self.mirrored else [picture]

    def decode(self, content: bytes) -> UInt8[Tensor, "C H W"]:
        """Crop to the middle square, and scale with Pillow's antialiased bicubic filter.

        Raises:
            ValueError: as ``open_picture`` does.
        """
        image = open_picture(content).convert("RGB" if self.channels == 3 else "L")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        return pixels(square.resize((self.size, self.size), Image.Resampling.BICUBIC))


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
