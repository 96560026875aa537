"""``PictureStream`` and ``TextStream``: examples that do not fit in memory, in shards."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import attrs
import torch
from jaxtyping import UInt8
from torch import Tensor

from dimo_core.errors import UsageError
from dimo_core.examples import Examples

FEW = 10
"""So many broken images are survived whatever their share, unless none may be broken."""


@attrs.frozen(kw_only=True, eq=False)
class Picture:
    """One image of a stream, or why there is none.

    Attributes:
        key: What people find it by.
        label: Class index; -1 when unknown.
        image: ``uint8 [C, H, W]``; None when it is broken.
        error: What is wrong with it.
        lost: Whether the rest of its shard is lost too; ``key`` then names the shard.
    """

    key: str
    label: int = -1
    image: UInt8[Tensor, "C H W"] | None = None
    error: str = ""
    lost: bool = False


class PictureStream(ABC):
    """Images that do not fit in memory: shards that are read independently of one another.

    Attributes:
        classes: Class names.
        shards: Names of the shards, in a fixed order.
        max_broken: Share of the images, and of the shards, that may be broken.
    """

    classes: tuple[str, ...]
    shards: Sequence[str]
    max_broken: float

    def allowed(self, pictures: int) -> int:
        """How many of so many pictures may be broken; a few always, unless none may."""
        return max(FEW * (self.max_broken > 0), int(self.max_broken * pictures))

    def versions(self) -> Sequence[str]:
        """A line for each file that changes when it is replaced; names of shards if no more is known."""
        return self.shards

    @abstractmethod
    def read(self, shard: str) -> Iterator[Picture]:
        """The pictures of a shard, in a fixed order, all of one shape; broken ones say so."""

    def sample(self, count: int = 1024, size: int = 2**25, shards: int = 16) -> Examples:
        """The first whole pictures of shards that are spread evenly over the stream.

        Args:
            count: How many, at most.
            size: How many bytes of pixels, at most; one picture of each shard is read in any case.
            shards: How many shards are read.

        Raises:
            UsageError: when there is no shard, or none of these holds a whole picture.
        """
        chosen = dict.fromkeys(self.shards[i * len(self.shards) // shards] for i in range(shards))
        share = -(-count // len(chosen))
        images: list[Tensor] = []
        labels: list[int] = []
        errors: list[str] = []
        for shard in chosen:
            first = len(images)
            for picture in self.read(shard):
                if picture.image is None:
                    errors.append(f"{picture.key} ({picture.error})")
                    continue
                images.append(picture.image)
                labels.append(picture.label)
                share = min(share, -(-size // (picture.image.nbytes * len(chosen))))
                if len(images) - first >= share:
                    break
        if not images:
            raise UsageError(
                f"no image can be read; looked into {len(chosen)} of {len(self.shards)} shards:"
                f" {'; '.join(errors[:3]) or 'they are empty'}."
            )
        return Examples(images=torch.stack(images), labels=torch.tensor(labels), classes=self.classes)


class TextStream(ABC):
    """Documents that do not fit in memory: shards that are read independently of one another.

    Each shard is packed by itself, so that tokens of documents of two shards never share a row.

    Attributes:
        classes: Class names.
        shards: Names of the shards, in a fixed order.
    """

    classes: tuple[str, ...]
    shards: Sequence[str]

    def versions(self) -> Sequence[str]:
        """A line for each file that changes when it is replaced; names of shards if no more is known."""
        return self.shards

    @abstractmethod
    def read(self, shard: str, most: int | None = None) -> Examples:
        """The documents of a shard as lines with labels, in a fixed order.

        Args:
            shard: Its name.
            most: How many documents, at most; None for all.

        Raises:
            UsageError: for a shard or a document that cannot be read.
        """

    def sample(self, count: int = 2**14, shards: int = 16) -> Examples:
        """The first documents of shards that are spread evenly over the stream.

        Args:
            count: How many, at most.
            shards: How many shards are read.

        Raises:
            UsageError: when these hold none, or cannot be read.
        """
        chosen = dict.fromkeys(self.shards[i * len(self.shards) // shards] for i in range(shards))
        found = self.documents(list(chosen), -(-count // len(chosen)))
        if not len(found):
            raise UsageError(f"no text; looked into {len(chosen)} of {len(self.shards)} shards.")
        return found

    def documents(self, shards: Sequence[str], most: int | None = None) -> Examples:
        """Those of some shards, in memory.

        Args:
            shards: Their names.
            most: How many of each, at most; None for all.

        Raises:
            UsageError: for what cannot be read.
        """
        parts = [self.read(shard, most) for shard in shards]
        lines = tuple(line for part in parts for line in part.lines or ())
        return Examples(lines=lines, labels=torch.cat([p.labels for p in parts]), classes=self.classes)
