"""Real pictures that samples are compared with: in batches, and which they are."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from dimo_core.conditions import Conditioning, raw_conditions
from dimo_core.errors import UsageError
from dimo_core.evaluation.protocols import digest
from dimo_core.files.folder import Folder
from dimo_core.files.images import RECORDS, SUFFIXES, Listing, read_picture
from dimo_core.metric import Samples
from dimo_core.sources import Data


def real_batches(data: Data, split: str, size: int) -> Iterator[Samples]:
    """A part of the data in batches; where data are streamed, one batch at a time is in memory.

    Args:
        data: The data.
        split: Which part.
        size: Images in a batch.

    Raises:
        UsageError: for an unknown part, or when too many of its images cannot be read.
    """
    if not data.streams:
        examples = data.load(split)
        conditions = examples.conditions()
        for i in range(0, len(examples), size):
            yield Samples(conditions=tuple(conditions[i : i + size]), images=examples.images[i : i + size])
        return
    stream, waiting, broken, total = data.open(split), [], [], 0
    for picture in (picture for shard in stream.shards for picture in stream.read(shard)):
        total += 1
        if picture.image is None:
            broken.append(f"{picture.key} ({picture.error})")
            continue
        waiting.append((picture.label, picture.image))
        if len(waiting) == size:
            yield _stacked(waiting)
            waiting = []
    if waiting:
        yield _stacked(waiting)
    if len(broken) > stream.allowed(total) or len(broken) == total:
        raise UsageError(
            f"{len(broken)} of {total} reference images of split {split!r} cannot be read: "
            f"{'; '.join(broken[:3]) or 'there are none'}. Mend or remove them."
        )


def real_identity(data: Data, splits: Sequence[str]) -> dict[str, Any]:
    """What decides the real pictures: the options of the data, and a hash of names and states of its files.

    Args:
        data: The data.
        splits: The parts that are used; empty names are none.

    Raises:
        UsageError: for an unknown part, or files that are not there.
    """
    files = {each: list(data.open(each).versions()) for each in splits if each and data.streams}
    return {**data.identity(), **({"files": digest(files)} if files else {})}


def _stacked(pictures: list[tuple[int, UInt8[Tensor, "C H W"]]]) -> Samples:
    labels, images = zip(*pictures, strict=True)
    return Samples(conditions=labels, images=torch.stack(images))


def picture_batches(url: str, conditioning: Conditioning, size: int) -> Iterator[Samples]:
    """The pictures of a folder, a batch at a time.

    Where ``dimo sample`` wrote them, ``samples.jsonl`` tells which they are and their conditions. Of other
    pictures the conditions are None: unknown.

    Args:
        url: The folder.
        conditioning: What conditions look like.
        size: Pictures in a batch.

    Raises:
        UsageError: when there are none, or they differ in size.
        SourceError: for one that cannot be read.
    """
    folder, listing = Folder(url), Listing.of(url)
    files = [path for path, _ in listing.pictures]
    conditions: Sequence[Any] = [None] * len(files)
    if folder.exists(RECORDS):
        records = [json.loads(line) for line in folder.read(RECORDS).splitlines()]
        files = [f"{listing.root}/{record['file']}" for record in records]
        conditions = raw_conditions(conditioning, [str(r["condition"]) for r in records], len(records))
    if not files:
        raise UsageError(f"no pictures in {url!r}. Expected files that end with {', '.join(SUFFIXES)}.")
    if not folder.exists(RECORDS):
        listing.tell()
    first = None
    for i in range(0, len(files), size):
        images = [read_picture(listing.filesystem, path) for path in files[i : i + size]]
        for path, image in zip(files[i : i + size], images, strict=True):
            first = image.shape if first is None else first
            if image.shape != first:
                raise UsageError(
                    f"pictures of different sizes: {path} is {list(image.shape)} (channels, height, width), "
                    f"others are {list(first)}. Bring all to one size, and gray ones among coloured ones to "
                    "three channels."
                )
        yield Samples(conditions=tuple(conditions[i : i + size]), images=torch.stack(images))
