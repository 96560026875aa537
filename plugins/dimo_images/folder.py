"""A folder of images for each class: ``ImageFolder``."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import attrs
from attrs import validators as v
from loguru import logger

from dimo_core.errors import UsageError
from dimo_core.files.images import SUFFIXES, Listing
from dimo_core.files.urls import version_of
from dimo_core.sources import Picture, PictureStream
from dimo_images.decoding import Look, Raw, decoded
from dimo_images.options import NAMED, ImageOptions
from dimo_images.parts import SPLITS, part_of

NO_CLASS = -1
"""The label of images that lie beside the folders of classes."""

SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing"}
"""Folders that are hardly meant as classes."""

SHARD = 1000
"""Images of a shard."""


@attrs.frozen(kw_only=True)
class ImageFolder(ImageOptions):
    """Images in PATH/CLASS/..., cropped to their middle square and scaled.

    The classes are the sorted names of the folders in PATH that hold images, at any depth; links are
    followed. Which images are held out depends on names and seed alone.

    Attributes:
        path: The folder, or any fsspec URL of one.
        held_out: Share of each class in the split ``held-out``.
        seed: Seed of that choice.
    """

    path: str
    held_out: float = attrs.field(default=0.1, converter=float, validator=[v.ge(0), v.lt(1)])
    seed: int = attrs.field(default=0, validator=v.ge(0))

    def splits(self) -> Sequence[str]:
        """``train`` and ``held-out``."""
        return SPLITS

    def open(self, split: str) -> "FolderStream":
        """List one part.

        Raises:
            UsageError: for an unknown or empty split, or a folder without images.
        """
        listing = Listing.of(self.path)
        named = sorted((_class_of(path, listing.root), path, facts) for path, facts in listing.pictures)
        if not any(name for name, _, _ in named):
            raise UsageError(
                f"no images in {self.path!r}: expected {self.path.rstrip('/')}/CLASS/IMAGE with one of the"
                f" endings {', '.join(SUFFIXES)}."
            )
        classes = tuple(sorted({name for name, _, _ in named if name}))
        index = {"": NO_CLASS} | {name: label for label, name in enumerate(classes)}
        labels = [index[name] for name, _, _ in named]
        if split == SPLITS[0]:
            listing.tell()
            _tell_classes(classes)
        part = part_of(labels, split, held_out=self.held_out, seed=self.seed)
        return FolderStream(
            filesystem=listing.filesystem,
            files=[(labels[i], named[i][1]) for i in part],
            states=[version_of(named[i][2]) for i in part],
            root=listing.root,
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
            Raw(
                key=path,
                label=label,
                read=partial(self.filesystem.cat_file, path),
                error="it is in no folder of a class" if label == NO_CLASS else "",
            )
            for label, path in self.files[start : start + SHARD]
        )
        return decoded(raws, self.look, self.threads)


def _class_of(path: str, root: str) -> str:
    """The folder in ``root`` that a file is in; empty for none."""
    folder, slash, _ = path[len(root) :].strip("/").partition("/")
    return folder if slash else ""


def _tell_classes(classes: Sequence[str]) -> None:
    """Log which classes were found."""
    shown = ", ".join(classes[:NAMED]) + (", ..." if len(classes) > NAMED else "")
    logger.info("{} classes: {}", len(classes), shown)
    if set(map(str.lower, classes)) <= SPLIT_NAMES:
        logger.warning(
            "the classes are named as the parts of a data set are: is one of them meant as --data.path?"
        )
