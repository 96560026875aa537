"""A folder of images for each class: ``ImageFolder``."""

from collections.abc import Sequence
from typing import Literal

import attrs
import fsspec
import numpy as np
import torch
from attrs import validators as v
from jaxtyping import UInt8
from loguru import logger
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from dimo_core.errors import UsageError
from dimo_core.sources import Data, Examples
from dimo_images.parts import SPLITS, part_of

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Files with other endings are no images."""


@attrs.frozen(kw_only=True)
class ImageFolder(Data):
    """Images in PATH/CLASS/..., cropped to their middle square and scaled.

    The classes are the sorted names of the folders in PATH that hold images, at any depth. Which images are
    held out depends on names and seed alone.

    Attributes:
        path: The folder, or any fsspec URL of one.
        size: Height and width in pixels.
        channels: 3 for colour, 1 for gray.
        held_out: Share of each class in the split ``held-out``.
        seed: Seed of that choice.
        max_broken: Images of a split that may be unreadable before it is an error.
    """

    path: str
    size: int = attrs.field(default=64, validator=v.gt(0))
    channels: Literal[1, 3] = attrs.field(default=3, validator=v.in_((1, 3)))
    held_out: float = attrs.field(default=0.1, converter=float, validator=[v.ge(0), v.lt(1)])
    seed: int = 0
    max_broken: int = attrs.field(default=10, validator=v.ge(0))

    def splits(self) -> Sequence[str]:
        """``train`` and ``held-out``."""
        return SPLITS

    def load(self, split: str) -> Examples:
        """Read one part into memory.

        Raises:
            UsageError: for an unknown or empty split, a folder without images, or too many broken images.
        """
        filesystem, root = fsspec.core.url_to_fs(self.path)
        named = _images_by_class(filesystem, root)
        if not named:
            raise UsageError(
                f"no images in {self.path!r}: expected {self.path.rstrip('/')}/CLASS/IMAGE with one of the"
                f" endings {', '.join(SUFFIXES)}."
            )
        classes = tuple(sorted({name for name, _ in named}))
        labels = [classes.index(name) for name, _ in named]
        images, kept, broken = [], [], []
        for i in part_of(labels, split, held_out=self.held_out, seed=self.seed):
            try:
                images.append(self._read(filesystem, named[i][1]))
                kept.append(labels[i])
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                reason = "no known image format" if isinstance(error, UnidentifiedImageError) else error
                broken.append(f"{named[i][1]} ({reason})")
                logger.warning("skipped an image that cannot be read: {}", broken[-1])
                if len(broken) > self.max_broken:
                    raise self._too_many(broken) from error
        if not images:
            raise self._too_many(broken)
        if broken:
            logger.warning("{} of {} images are broken", len(broken), len(broken) + len(images))
        return Examples(images=torch.stack(images), labels=torch.tensor(kept), classes=classes)

    def _read(self, filesystem: fsspec.AbstractFileSystem, path: str) -> UInt8[Tensor, "C H W"]:
        with filesystem.open(path, "rb") as file, Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB" if self.channels == 3 else "L")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        pixels = torch.from_numpy(np.array(square.resize((self.size, self.size), Image.Resampling.BICUBIC)))
        return pixels[None] if self.channels == 1 else pixels.permute(2, 0, 1).contiguous()

    def _too_many(self, broken: Sequence[str]) -> UsageError:
        return UsageError(
            f"{len(broken)} images of {self.path!r} cannot be read, and max_broken allows {self.max_broken}:"
            f" {'; '.join(broken[:5])}{'; ...' if len(broken) > 5 else ''}. Mend or remove them."
        )


def _images_by_class(filesystem: fsspec.AbstractFileSystem, root: str) -> list[tuple[str, str]]:
    """Class name and path of every image below ``root``, sorted."""
    found = []
    for path in filesystem.find(root):
        inside = path[len(root) :].strip("/").split("/")
        hidden = any(part.startswith(".") for part in inside)
        if len(inside) > 1 and not hidden and path.lower().endswith(SUFFIXES):
            found.append((inside[0], path))
    return sorted(found)
