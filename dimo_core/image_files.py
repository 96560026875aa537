"""A folder of pictures as samples to be judged."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import fsspec
import torch

from dimo_core.conditions import Conditioning, raw_conditions
from dimo_core.errors import UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.images import RECORDS, SUFFIXES, picture_files, read_picture
from dimo_core.metric import Samples


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
    filesystem, root = fsspec.core.url_to_fs(url.rstrip("/"))
    folder = Folder(url)
    files: Sequence[str] = picture_files(url)
    conditions: Sequence[Any] = [None] * len(files)
    if folder.exists(RECORDS):
        records = [json.loads(line) for line in folder.read(RECORDS).splitlines()]
        files = [f"{root}/{record['file']}" for record in records]
        conditions = raw_conditions(conditioning, [str(r["condition"]) for r in records], len(records))
    if not files:
        raise UsageError(f"no pictures in {url!r}. Expected files that end with {', '.join(SUFFIXES)}.")
    first = None
    for i in range(0, len(files), size):
        images = [read_picture(filesystem, path) for path in files[i : i + size]]
        for path, image in zip(files[i : i + size], images, strict=True):
            first = image.shape if first is None else first
            if image.shape != first:
                raise UsageError(
                    f"pictures of different sizes: {path} is {list(image.shape)} (channels, height, width), "
                    f"others are {list(first)}. Bring all to one size, and gray ones among coloured ones to "
                    "three channels."
                )
        yield Samples(conditions=tuple(conditions[i : i + size]), images=torch.stack(images))
