"""Real pictures that samples are compared with: in batches, and which they are."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, UInt8
from loguru import logger
from torch import Tensor

from dimo_core.conditions import Conditioning, from_text
from dimo_core.draws import permutation
from dimo_core.errors import UsageError
from dimo_core.evaluation.protocols import digest
from dimo_core.files.folder import Folder
from dimo_core.files.images import GRID, RECORDS, SUFFIXES, Listing, read_picture
from dimo_core.files.state import SEAL, checksum
from dimo_core.metric import Samples
from dimo_core.sources import Conditions, Data, Examples, TextStream
from dimo_core.teacher import Teacher
from dimo_core.tokens import Tokens


def real_batches(data: Data, split: str, size: int, teacher: Teacher) -> Iterator[Samples]:
    """A part of the data in batches; where data are streamed, one batch at a time is in memory.

    Args:
        data: The data.
        split: Which part.
        size: Images in a batch.
        teacher: Makes rows of its length of texts.

    Raises:
        UsageError: for an unknown part, or when too many of its images cannot be read.
    """
    if not data.streams:
        yield from _of_examples(teacher.packed(data.load(split)), size, teacher)
        return
    if isinstance(stream := data.open(split), TextStream):
        for shard in stream.shards:
            yield from _of_examples(teacher.packed(stream.read(shard), partial=True), size, teacher)
        return
    waiting, broken, total = [], [], 0
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


def _of_examples(examples: Examples, size: int, teacher: Teacher) -> Iterator[Samples]:
    conditions = examples.conditions()
    for i in range(0, len(examples), size):
        one, raw = examples.part(slice(i, i + size)), tuple(conditions[i : i + size])
        counted = _counted(teacher, one.tokens, raw)
        yield Samples(conditions=raw, images=one.images, tokens=one.tokens, counted=counted)


def _counted(teacher: Teacher, x: Tokens | None, raw: Sequence[Any]) -> Bool[Tensor, "N L"] | None:
    if x is None:
        return None
    space = teacher.tokens
    if not space.gives and space.end is None:
        return None
    return space.counted(x, teacher.encode_conditions(raw) if space.gives else None)


def _stacked(pictures: list[tuple[int, UInt8[Tensor, "C H W"]]]) -> Samples:
    labels, images = zip(*pictures, strict=True)
    return Samples(conditions=labels, images=torch.stack(images))


def picture_batches(
    url: str,
    conditioning: Conditioning,
    size: int,
    source: Conditions | None = None,
    count: int | None = None,
) -> Iterator[Samples]:
    """The pictures of a folder, a batch at a time.

    Where ``dimo sample`` wrote them, ``samples.jsonl`` tells which they are and their conditions. Of other
    pictures the conditions are None: unknown. Another's file of that name is left alone, with a warning.

    Args:
        url: The folder.
        conditioning: What conditions look like.
        size: Pictures in a batch.
        source: Reads conditions that are neither labels nor text.
        count: How many are taken: a random part, always the same, as every n-th may be of one kind; None for
            all.

    Raises:
        UsageError: when there are none, or fewer than are asked for, they differ in size, or
            ``samples.jsonl`` is damaged.
        SourceError: for one that cannot be read.
    """
    folder, listing = Folder(url), Listing.of(url)
    files = [path for path, _ in listing.pictures]
    conditions: Sequence[Any] = [None] * len(files)
    records = _records(folder, listing) if folder.exists(RECORDS) else []
    if records:
        files = [f"{listing.root}/{record['file']}" for record in records]
        read = from_text if source is None else source.parse
        conditions = read(conditioning, [str(r["condition"]) for r in records])
    if not files:
        raise UsageError(f"no pictures in {url!r}. Expected files that end with {', '.join(SUFFIXES)}.")
    if not records:
        listing.tell()
    if count is not None:
        if count > len(files):
            raise UsageError(
                f"--samples {count}: {url!r} holds {len(files)} pictures. Ask for as many at most, or leave "
                "the option out for all."
            )
        part = sorted(permutation(0, 0, len(files), "pictures")[:count])
        files, conditions = [files[i] for i in part], [conditions[i] for i in part]
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


def _records(folder: Folder, listing: Listing) -> list[Mapping[str, Any]]:
    """The lines of ``samples.jsonl``; none of a file that ``dimo sample`` did not write.

    Raises:
        UsageError: when a line is damaged or missing, or names a picture that is not there.
    """
    source, data = folder.path(RECORDS), folder.read(RECORDS)
    lines = [_record(line) for line in data.split(b"\n") if line]
    if not any(lines) and f'"{SEAL}"'.encode() not in data:
        logger.warning(
            "{} is not of `dimo sample` (its lines have no file and condition): it is not read, and all "
            "pictures are taken, their conditions unknown",
            source,
        )
        return []
    there, advice = {path for path, _ in listing.pictures}, "Draw the samples again, or remove that file."
    for number, line in enumerate(lines):
        if line is None or line.get("index", number) != number:
            raise UsageError(
                f"{source} is damaged: line {number + 1} is not that of sample {number}. {advice}"
            )
        if f"{listing.root}/{line['file']}" not in there:
            raise UsageError(f"{source} names {line['file']!r}, and there is no such picture. {advice}")
    if (count := (lines[0] or {}).get("of", len(lines))) != len(lines):
        raise UsageError(f"{source} is damaged: {len(lines)} lines of {count} are there. {advice}")
    others = there - {f"{listing.root}/{name}" for name in (GRID, *(line["file"] for line in lines if line))}
    if others:
        some = ", ".join(path[len(listing.root) :].lstrip("/") for path in sorted(others)[:3])
        logger.warning("{} pictures that {} does not name are left out: {}", len(others), source, some)
    return [line for line in lines if line]


def record_seal(record: Mapping[str, Any]) -> str:
    """The checksum of what is read again of a line of ``samples.jsonl``, for its entry ``SEAL``."""
    return checksum({key: record.get(key) for key in ("file", "index", "of", "condition")})


def _record(line: bytes) -> Mapping[str, Any] | None:
    """A line as ``dimo sample`` writes it; None for another."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or not all(type(data.get(key)) is str for key in ("file", "condition")):
        return None
    return data if SEAL not in data or data[SEAL] == record_seal(data) else None
