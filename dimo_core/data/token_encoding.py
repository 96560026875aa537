"""Fills a token cache: reads, decodes and encodes shard by shard, and goes on where it was stopped."""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from shlex import quote
from typing import Any, TypeVar

import torch
from loguru import logger
from torch import Tensor

from dimo_core import conditions
from dimo_core.data.token_cache import BROKEN, EncodedExamples, EncodedShard, TokenCache
from dimo_core.errors import Interrupted, PluginError, UsageError
from dimo_core.progress import Progress, Stop
from dimo_core.sources import Picture, TextStream
from dimo_core.teacher import Teacher
from dimo_core.tokens import Tokens

T = TypeVar("T")

BATCH_VALUES, BATCH_PICTURES = 2**24, 1024
"""Limits of a batch: pixels times channels, and pictures. 85 images of 256 x 256 fill one."""

NAMED = 20
"""Broken images that the log names."""

AHEAD = 4
"""Batches that are read and decoded while another is encoded."""


def encoded(cache: TokenCache, teacher: Teacher, device: torch.device) -> EncodedExamples:
    """The tokens of all pictures of a cache, which is completed first by the teacher that it was begun with.

    Raises:
        UsageError: when too many pictures are broken.
        Interrupted: after SIGINT or SIGTERM; finished shards are kept.
        CheckpointError: when a file of the cache is damaged.
    """
    if not cache.finished:
        _complete(cache, teacher, device)
    examples = cache.load()
    logger.info("{} encoded examples in {}", len(examples), cache.folder.url)
    return examples


def _complete(cache: TokenCache, teacher: Teacher, device: torch.device) -> None:
    names, done = cache.stream.shards, {i: s for i, s in cache.shards().items() if not s.lost}
    logger.info("encoding into {}: {} of {} shards are done", cache.folder.url, len(done), len(names))
    with Stop() as stop, Progress(len(names), len(done), unit="shard") as progress:
        for place in [i for i in range(len(names)) if i not in done]:
            shard = _encode(cache, place, teacher, device, stop)
            if shard is None:
                raise Interrupted(
                    f"stopped by {stop.requested} while encoding; {len(done)} of {len(names)} shards are kept"
                )
            done[place] = shard
            progress.advance(len(done), {})
            _check_broken(cache, done)
    shards = [done[place] for place in range(len(names))]
    broken = [
        {"key": key, "error": error, "shard": shard.name}
        for shard in shards
        for key, error in [*shard.broken, *([(shard.name, shard.lost)] if shard.lost else [])]
    ]
    for line in broken[:NAMED]:
        logger.warning("not read: {} ({})", line["key"], line["error"])
    if not any(shard.pictures for shard in shards):
        raise UsageError(
            f"none of the {len(shards)} shards holds an image that can be read, or text enough for a row."
        )
    cache.finish(shards, broken)
    if broken:
        name = cache.folder.path(BROKEN)
        logger.warning("broken images and shards: {}, all in {}", len(broken), name)


def _encode(
    cache: TokenCache, place: int, teacher: Teacher, device: torch.device, stop: Stop
) -> EncodedShard | None:
    """Encode one shard and keep it; None when it was stopped on the way."""
    stream = cache.stream
    if stop.requested:
        return None
    if not isinstance(stream, TextStream):
        pictures = stream.read(stream.shards[place])
        return _encode_pictures(pictures, cache, place, teacher, device, stop)
    rows = teacher.packed(stream.read(stream.shards[place]), partial=True)
    if rows.tokens is None:
        raise UsageError(
            f"teacher {type(teacher).__name__} makes no rows of texts, which these data are. Choose data of "
            "images with --data."
        )
    facts: dict[str, Any] = {"broken": [], "lost": ""}
    return cache.write(place, teacher.tokens.checked(rows.tokens), rows.labels, facts)


def _encode_pictures(
    pictures: Iterator[Picture],
    cache: TokenCache,
    place: int,
    teacher: Teacher,
    device: torch.device,
    stop: Stop,
) -> EncodedShard | None:
    shape = torch.Size(cache.plan["image_shape"])
    size = max(1, min(BATCH_PICTURES, BATCH_VALUES // shape.numel()))
    tokens = [torch.empty(0, teacher.tokens.length, dtype=torch.long)]
    labels: list[int] = []
    broken: list[tuple[str, str]] = []
    lost = ""
    batches = prefetched(_batches(pictures, size), AHEAD)
    for batch in batches:
        if stop.requested:
            batches.close()
            return None
        whole = [picture for picture in batch if picture.image is not None]
        broken += [(p.key, p.error) for p in batch if p.image is None and not p.lost]
        lost = next((p.error for p in batch if p.lost), lost)
        labels += [picture.label for picture in whole]
        if whole:
            tokens.append(_tokens(teacher, whole, shape, device))
    facts = {"broken": broken, "lost": lost}
    return cache.write(place, torch.cat(tokens), torch.tensor(labels, dtype=torch.long), facts)


@torch.no_grad()
def _tokens(teacher: Teacher, pictures: list[Picture], shape: torch.Size, device: torch.device) -> Tokens:
    images: list[Tensor] = [picture.image for picture in pictures if picture.image is not None]
    for picture, image in zip(pictures, images, strict=True):
        if image.shape != shape:
            raise PluginError(
                f"image {picture.key} is of shape {list(image.shape)}, the first ones of {list(shape)}: "
                "a picture stream must give one shape"
            )
    c = conditions.to(teacher.encode_conditions([picture.label for picture in pictures]), device)
    tokens = teacher.encode(torch.stack(images).to(device) / 255, c).cpu()
    shape, codes = torch.Size((len(images), teacher.tokens.length)), teacher.tokens.codes
    if tokens.shape != shape or not 0 <= int(tokens.min()) <= int(tokens.max()) < codes:
        raise PluginError(
            f"teacher {type(teacher).__name__} encodes images to {list(tokens.shape)} tokens from "
            f"{int(tokens.min())} to {int(tokens.max())}; expected {list(shape)} of 0 .. {codes - 1}"
        )
    return tokens


def _check_broken(cache: TokenCache, done: dict[int, EncodedShard]) -> None:
    """Stop as soon as the shards read so far, taken for the rest, show too many broken ones.

    Raises:
        UsageError: then.
    """
    stream = cache.stream
    if isinstance(stream, TextStream):
        return  # where what cannot be read is an error at once
    shards, limit = len(stream.shards), stream.max_broken
    broken = [entry for shard in done.values() for entry in shard.broken]
    lost = [(shard.name, shard.lost) for shard in done.values() if shard.lost]
    seen = len(broken) + sum(shard.pictures for shard in done.values())
    allowed = stream.allowed(seen * shards // len(done))
    if len(broken) <= allowed and len(lost) <= max(limit > 0, limit * shards):
        return
    named = "; ".join(f"{key} ({error})" for key, error in [*lost, *broken][:5])
    raise UsageError(
        f"{len(broken)} of {seen} images cannot be read, and {len(lost)} of {len(done)} shards not to their"
        f" end; max_broken allows a share of {limit:g}: {named}. Mend them and remove"
        f" {cache.folder.url}; or allow more, and keep what is encoded, by a new run with --data.max_broken"
        f" and --tokens {quote(cache.folder.url)}."
    )


def _batches(pictures: Iterator[T], size: int) -> Generator[list[T], None, None]:
    while batch := list(islice(pictures, size)):
        yield batch


def prefetched(items: Generator[T, None, None], ahead: int) -> Generator[T, None, None]:
    """The same items, made in a background thread, ``ahead`` of them before they are asked for."""
    end = object()
    with ThreadPoolExecutor(1, "prefetch") as thread:
        waiting: deque[Future[Any]] = deque(thread.submit(next, items, end) for _ in range(ahead))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(thread.submit(next, items, end))
                yield item
        finally:
            thread.shutdown(cancel_futures=True)
            items.close()
