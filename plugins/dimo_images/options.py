"""Options that folders and shards of images share: ``ImageOptions``."""

from abc import abstractmethod
from typing import ClassVar, Literal

import attrs
import torch
from attrs import validators as v
from loguru import logger

from dimo_core.errors import UsageError
from dimo_core.sources import Data, Examples, PictureStream
from dimo_images.decoding import Look

NAMED = 20
"""Broken images that the log names."""


@attrs.frozen(kw_only=True)
class ImageOptions(Data):
    """Images that are read one after another, and what becomes of them.

    Attributes:
        size: Height and width in pixels; the middle square is cropped and scaled.
        channels: 3 for colour, 1 for gray.
        mirrored: Whether the mirror image of each image is one more image.
        max_broken: Share of the images, and of the shards, that may be unreadable before it is an error.
            Unless it is 0, ten images and one shard may be in any case.
        threads: How many images are decoded at once.
    """

    incidental: ClassVar[frozenset[str]] = frozenset({"max_broken", "threads"})

    size: int = attrs.field(default=64, validator=v.gt(0))
    channels: Literal[1, 3] = attrs.field(default=3, validator=v.in_((1, 3)))
    mirrored: bool = False
    max_broken: float = attrs.field(default=0.01, converter=float, validator=[v.ge(0), v.le(1)])
    threads: int = attrs.field(default=4, validator=v.gt(0))

    @abstractmethod
    def open(self, split: str) -> PictureStream:
        """Find the images of one part."""

    @property
    def look(self) -> Look:
        """What each image becomes."""
        return Look(size=self.size, channels=self.channels, mirrored=self.mirrored)

    @property
    def streams(self) -> bool:
        """Images are encoded once, into a token cache."""
        return True

    def load(self, split: str) -> Examples:
        """Read one part into memory.

        Raises:
            UsageError: for an unknown or empty split, or too many broken images.
        """
        stream = self.open(split)
        pictures = [picture for shard in stream.shards for picture in stream.read(shard)]
        whole = [(picture.image, picture.label) for picture in pictures if picture.image is not None]
        broken = [f"{picture.key} ({picture.error})" for picture in pictures if picture.image is None]
        for name in broken[:NAMED]:
            logger.warning("skipped an image that cannot be read: {}", name)
        if len(broken) > stream.allowed(len(pictures)) or not whole:
            raise UsageError(
                f"{len(broken)} of {len(pictures)} images cannot be read, and max_broken allows a share of"
                f" {self.max_broken:g}: {'; '.join(broken[:5])}. Mend or remove them."
            )
        images, labels = zip(*whole, strict=True)
        return Examples(images=torch.stack(images), labels=torch.tensor(labels), classes=stream.classes)
