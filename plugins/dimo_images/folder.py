"""A folder of images for each class: ``ImageFolder``."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import attrs
import fsspec
from attrs import validators as v

from dimo_core.errors import UsageError
from dimo_core.files.urls import version_of
from dimo_core.sources import Picture, PictureStream
from dimo_images.decoding import Look, Raw, decoded
from dimo_images.options import ImageOptions
from dimo_images.parts import SPLITS, part_of

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Files with other endings are no images."""

SHARD = 1000
"""Images of a shard."""


@attrs.frozen(kw_only=True)
class ImageFolder(ImageOptions):
    """Images in PATH/CLASS/..., cropped to their middle square and scaled.

    The classes are the sorted names of the folders in PATH that hold images, at any depth. Which images are
    held out depends on names and seed alone.

    Attributes:
        path: The folder, or any fsspec URL of one.
        held_out: Share of each class in the split ``held-out``.
        seed: Seed of that choice.
    """

    path: str
    held_out: float = attrs.field(default=0.1, converter=float, validator=[v.ge(0), v.lt(1)])
    seed: int = 0

    def splits(self) -> Sequence[str]:
        """``train`` and ``held-out``."""
        return SPLITS

    def open(self, split: str) -> "FolderStream":
        """List one part.

        Raises:
            UsageError: for an unknown or empty split, or a folder without images.
        """
        filesystem, root = fsspec.core.url_to_fs(self.path)
        named = _images_by_class(filesystem, root)
        if not named:
            raise UsageError(
                f"no images in {self.path!r}: expected {self.path.rstrip('/')}/CLASS/IMAGE with one of the"
                f" endings {', '.join(SUFFIXES)}."
            )
        classes = tuple(sorted({name for name, _, _ in named}))
        index = {name: label for label, name in enumerate(classes)}
        labels = [index[name] for name, _, _ in named]
        part = part_of(labels, split, held_out=self.held_out, seed=self.seed)
        return FolderStream(
            filesystem=filesystem,
            files=[(labels[i], named[i][1]) for i in part],
            states=[named[i][2] for i in part],
            root=root,
            classes=classes,
            look=self.look,
            max_broken=self.max_broken,
            threads=self.threads,
        )


@attrs.frozen(kw_only=True, eq=False)
class FolderStream(PictureStream):
    """Listed files, in shards of 1000.

    Attributes:
        filesystem: Where they are.
        files: Label and path of each image, sorted by class and path.
        states: What tells each file from another of its name.
        root: Path of the folder.
        classes: Class names.
        look: What the images become.
        max_broken: Share of broken images that is survived.
        threads: How many images are decoded at once.
    """

    filesystem: Any
    files: Sequence[tuple[int, str]]
    states: Sequence[str]
    root: str
    classes: tuple[str, ...]
    look: Look
    max_broken: float
    threads: int
    shards: Sequence[str] = attrs.field(init=False)

    @shards.default
    def _named(self) -> Sequence[str]:
        """A number, and a digest of the names of its files: files that come or go are noticed."""
        names = []
        for start in range(0, len(self.files), SHARD):
            listed = "\n".join(path[len(self.root) :] for _, path in self.files[start : start + SHARD])
            digest = hashlib.sha256(listed.encode()).hexdigest()
            names.append(f"{start // SHARD:05d}-{digest[:12]}")
        return names

    def versions(self) -> Sequence[str]:
        """Name and state of every file."""
        pairs = zip(self.files, self.states, strict=True)
        return [f"{path[len(self.root) :]} {state}" for (_, path), state in pairs]

    def read(self, shard: str) -> Iterator[Picture]:
        """Its images, in the order of their paths."""
        start = int(shard.partition("-")[0]) * SHARD
        raws = (
            Raw(key=path, label=label, read=partial(self.filesystem.cat_file, path))
            for label, path in self.files[start : start + SHARD]
        )
        return decoded(raws, self.look, self.threads)


def _images_by_class(filesystem: Any, root: str) -> list[tuple[str, str, str]]:
    """Class name, path and state of every image below ``root``, sorted."""
    found = []
    for path, info in filesystem.find(root, detail=True).items():
        inside = path[len(root) :].strip("/").split("/")
        hidden = any(part.startswith(".") for part in inside)
        if len(inside) > 1 and not hidden and path.lower().endswith(SUFFIXES):
            found.append((inside[0], path, version_of(info)))
    return sorted(found)
