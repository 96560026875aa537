"""Images in tar files, as webdataset writes them: ``ImageShards``."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import fsspec
from attrs import validators as v

from dimo_core import limits
from dimo_core.conditions import called
from dimo_core.errors import UsageError
from dimo_core.files.tar_samples import lacking, tar_samples
from dimo_core.files.urls import check_regular, client_options, content, expanded, state_of
from dimo_core.sources import Picture, PictureStream
from dimo_images.decoding import Look, Raw, decoded
from dimo_images.options import ImageOptions

IMAGES = ("jpg", "jpeg", "png", "webp")
"""Endings of members that are images; the first one of a sample counts."""


def _as_urls(value: str | Sequence[str]) -> str | tuple[str, ...]:
    return value if isinstance(value, str) else tuple(value)


def _as_classes(value: int | str | Sequence[str]) -> int | str | tuple[str, ...]:
    return value if isinstance(value, int | str) else tuple(value)


@attrs.frozen(kw_only=True)
class ImageShards(ImageOptions):
    """Samples KEY.jpg (or jpeg, png, webp) with KEY.cls or KEY.json, in tar files.

    Attributes:
        url: Path or fsspec URL of the shards, with braces and wildcards (``train-{000..127}.tar``), or a list
            of these.
        held_out: The same for the split ``held-out``; null for none.
        classes: Number of classes, list of their names, or path of a text file with one name a line.
        label: Ending of the member that holds the label, or ``json.FIELD``. Labels are names from
            ``classes``, or class indices; where a class is named by a number that is not its index, names
            alone.
    """

    url: str | tuple[str, ...] = attrs.field(converter=_as_urls)
    held_out: str | tuple[str, ...] | None = attrs.field(
        default=None, converter=attrs.converters.optional(_as_urls)
    )
    classes: int | str | tuple[str, ...] = attrs.field(converter=_as_classes)
    label: str = attrs.field(default="cls", validator=v.min_len(1))

    def splits(self) -> Sequence[str]:
        """``train``, and ``held-out`` where there is one."""
        return ("train",) if self.held_out is None else ("train", "held-out")

    def open(self, split: str) -> "ShardStream":
        """Find the shards of one part.

        Raises:
            UsageError: for an unknown split, or URLs and classes that cannot be used.
            MissingLibraryError: when the library for a protocol is not installed.
        """
        if split not in self.splits():
            raise UsageError(f"these data have no split {split!r}. Known: {', '.join(self.splits())}.")
        urls = self.url if split == "train" or self.held_out is None else self.held_out
        return ShardStream(
            shards=expanded(urls),
            classes=_class_names(self.classes),
            label=self.label,
            look=self.look,
            max_broken=self.max_broken,
            threads=self.threads,
        )


@attrs.frozen(kw_only=True, eq=False)
class ShardStream(PictureStream):
    """Tar files, opened by fsspec and taken apart by webdataset.

    Attributes:
        shards: Their URLs.
        classes: Class names.
        label: Where a sample's label is.
        look: What the images become.
        max_broken: Share of broken images, and of shards, that is survived.
        threads: How many images are decoded at once.
    """

    shards: Sequence[str]
    classes: tuple[str, ...]
    label: str
    look: Look
    max_broken: float
    threads: int
    _called: dict[str, int] = attrs.field(init=False)

    @_called.default
    def _names_and_indices(self) -> dict[str, int]:
        return called(self.classes)

    def versions(self) -> Sequence[str]:
        """URL and state of every shard; of one that cannot be asked, the URL."""
        return [f"{url} {state_of(url)}" for url in self.shards]

    def read(self, shard: str) -> Iterator[Picture]:
        """Its samples in the order of the tar file; the last one says so when the rest is lost."""
        return decoded(self._samples(shard), self.look, self.threads)

    def _samples(self, url: str) -> Iterator[Raw]:
        try:
            check_regular(url)
            with fsspec.open(url, "rb", **client_options(url)) as file:
                for sample in tar_samples(file, url):
                    yield from self._sample(url, sample)
        except Exception as error:  # of file system, tarfile or decompressor; webdataset adds arguments
            reason = error.args[0] if error.args and isinstance(error.args[0], str) else error
            text = " ".join(f"{type(error).__name__}: {reason}".split())
            yield Raw(key=url, error=text, lost=True)

    def _sample(self, url: str, sample: Mapping[str, Any]) -> list[Raw]:
        key = f"{url}::{sample['__key__']}"
        ending = next((ending for ending in IMAGES if ending in sample), None)
        if ending is None:
            return [Raw(key=key, error=reason) for reason in lacking(sample, IMAGES)]
        try:
            label = self._label(sample)
        except ValueError as error:
            return [Raw(key=key, error=str(error))]
        return [Raw(key=key, label=label, read=partial(bytes, sample[ending]))]

    def _label(self, sample: Mapping[str, Any]) -> int:
        """The class index of a sample; ValueError says what is wrong."""
        member, _, fields = self.label.partition(".")
        if member not in sample:
            raise ValueError(f"no label: there is no member {member}")
        try:
            value: Any = sample[member].decode("utf-8-sig").strip()
            for field in [None, *fields.split(".")] if fields else ():
                value = json.loads(value) if field is None else value[field]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"no label: {self.label} cannot be read ({error!r})") from error
        if (label := self._called.get(str(value))) is None:
            raise ValueError(f"label {value!r} is no class: neither a name nor an index of `classes`")
        return label


def _class_names(classes: int | str | Sequence[str]) -> tuple[str, ...]:
    """Names from their number, a list, or a text file.

    Raises:
        UsageError: when there is none, one is named twice, or the file cannot be read.
    """
    if isinstance(classes, int):
        if classes > limits.CLASSES:
            raise UsageError(f"classes is {classes:,}; there may be {limits.CLASSES:,}.")
        names = tuple(map(str, range(classes)))
    elif isinstance(classes, str):
        try:
            lines = content(classes, limits.TEXT).decode("utf-8-sig").splitlines()
            names = tuple(line.strip() for line in lines if line.strip())
        except (OSError, ValueError, ImportError) as error:
            raise UsageError(
                f"cannot read class names from {classes!r} ({error}). classes takes their number, a list of"
                " names, or a text file with one name a line."
            ) from error
    else:
        names = tuple(classes)
    if not names or len(set(names)) < len(names):
        raise UsageError(f"classes must be one or more different names, got {len(names)}: {classes!r}.")
    return names
