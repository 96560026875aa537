"""Prompts from files and from lists: ``Prompts`` and ``PromptList``."""

import functools
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import attrs
from attrs import validators as v
from loguru import logger

from dimo_core.conditions import Conditioning
from dimo_core.errors import SourceError, UsageError
from dimo_core.files.urls import SILENCE, expanded, is_missing
from dimo_core.sources import Conditions
from dimo_core.texts import is_masked, masked
from dimo_prompts.captions import Layout
from dimo_prompts.index import Index, read_whole
from dimo_prompts.indexing import Indexer, no_files
from dimo_prompts.reading import Reader, told
from dimo_prompts.stream import PromptStream


def _as_urls(value: str | Sequence[str]) -> str | tuple[str, ...]:
    return value if isinstance(value, str) else tuple(value)


def _as_list(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


@attrs.frozen(kw_only=True)
class Prompts(Conditions):
    """Prompts in webdataset shards, text files or JSON lines, anywhere that fsspec reads.

    Attributes:
        url: Path or fsspec URL of the files, with braces and wildcards (``train-{000..127}.tar``), or a list
            of these.
        held_out: The same for prompts to evaluate with and to show; null takes the first ones of ``url``.
        format: What the files are: ``tar``, ``text`` (one prompt a line) or ``jsonl``; ``auto`` goes by their
            names.
        field: Member of a tar file's samples or field of a JSON object, such as ``json.caption``. Null is
            ``txt`` in tar files and ``prompt`` in JSON lines.
        shuffle: Whether each epoch has an order of its own, rather than that of the files.
        max_broken: Share of the prompts, and of the files, that may be unreadable before it is an error.
            Unless it is 0, ten prompts and one file may be in any case.
        prefetch: How many shards are read before they are needed.
        timeout: Seconds of silence, or over http of less than 1000 bytes each, after which a connection has
            failed.
        retries: How often a shard that cannot be read is tried again, after 1, 2, 4, ... seconds.
        threads: How many files are read at once when prompts are counted.
    """

    url: str | tuple[str, ...] = attrs.field(converter=_as_urls)
    held_out: str | tuple[str, ...] | None = attrs.field(
        default=None, converter=attrs.converters.optional(_as_urls)
    )
    format: Literal["auto", "tar", "text", "jsonl"] = attrs.field(
        default="auto", validator=v.in_(("auto", "tar", "text", "jsonl"))
    )
    field: str | None = attrs.field(default=None, validator=v.optional(v.min_len(1)))
    shuffle: bool = True
    max_broken: float = attrs.field(default=0.01, converter=float, validator=[v.ge(0), v.le(1)])
    prefetch: int = attrs.field(default=2, validator=v.ge(0))
    timeout: float = attrs.field(default=SILENCE, converter=float, validator=v.gt(0))
    retries: int = attrs.field(default=5, validator=v.ge(0))
    threads: int = attrs.field(default=8, validator=v.gt(0))

    @cached_property
    def _shown(self) -> dict[int, list[str]]:
        """What was read for evaluation, by how many were asked for; 0 is all held-out ones."""
        return {}

    @property
    def layout(self) -> Layout:
        """Where prompts are in the files."""
        return Layout(format=self.format, field=self.field)

    @property
    def reader(self) -> Reader:
        """What opens them."""
        return Reader(timeout=self.timeout, retries=self.retries)

    def open(self, conditioning: Conditioning, *, seed: int) -> PromptStream:
        """Count the prompts, and start reading.

        Raises:
            UsageError: when the teacher takes no text, there are no prompts, or too many are broken.
            MissingLibraryError: when the library for a protocol is not installed.
        """
        check_kind(conditioning, "prompts")
        urls = expanded(self.url, silence=self.timeout)
        indexer = Indexer(
            layout=self.layout, reader=self.reader, max_broken=self.max_broken, threads=self.threads
        )
        return self._stream(indexer.index(urls), seed)

    def reopen(self, conditioning: Conditioning, record: Mapping[str, Any], *, seed: int) -> PromptStream:
        """Read on in the files that were counted then; nothing is counted again.

        Raises:
            UsageError: when the teacher takes no text, or the record is none of this source.
        """
        check_kind(conditioning, "prompts")
        try:
            index = Index.from_dict(record)
            if is_masked(record):  # their secrets are in the options again
                urls = {masked(url): url for url in expanded(self.url, silence=self.timeout)}
                index = Index(files=tuple(file.at(urls[file.url]) for file in index.files))
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"this is no record of prompts ({error!r}). Start a new run.") from error
        return self._stream(index, seed)

    def balanced(self, conditioning: Conditioning, count: int) -> list[str]:
        """``held_out`` prompts, evenly spread over them; without any, the first different ones of ``url``.

        Fewer than ``count`` are repeated in turn.

        Raises:
            UsageError: as ``open`` does.
        """
        check_kind(conditioning, "prompts")
        key = 0 if self.held_out is not None else count  # all of them, or the first so many
        if key not in self._shown:
            self._shown[key] = self._first(key)
        return spread(self._shown[key], count)

    def _stream(self, index: Index, seed: int) -> PromptStream:
        parts, layout, reader = index.parts, self.layout, self.reader

        def load(number: int) -> list[str]:
            part = parts[number]
            try:
                return reader.retried(part.url, lambda: part.prompts(layout, reader), settled=True)
            except Exception as error:  # of any file system
                raise SourceError(
                    f"{part.url} could be read when this run was started, and cannot be any more"
                    f" ({told(error)}; {self.retries + 1} attempts). Bring it back, then continue from the"
                    " last checkpoint with --resume."
                ) from error

        return PromptStream(
            [part.count for part in parts],
            load,
            seed=seed,
            shuffle=self.shuffle,
            ahead=self.prefetch,
            record=index.as_dict(),
        )

    def _first(self, count: int) -> list[str]:
        """The first ``count`` different prompts; for 0 all held-out ones, as often as they are listed."""
        different: dict[str, None] = {}
        listed: list[str] = []
        failed: list[str] = []
        missing: list[str] = []

        def collect(url: str, here: list[str]) -> None:
            here.clear()  # another attempt begins anew
            for entry in read_whole(url, self.layout, self.reader):
                if isinstance(entry, str):
                    different.setdefault(entry)
                    here += [] if count else [entry]
                if 0 < count <= len(different):
                    return

        urls = expanded(self.held_out or self.url, silence=self.timeout)
        for url in urls:
            self.layout.format_of(url)
            here: list[str] = []
            try:
                self.reader.retried(url, functools.partial(collect, url, here))
            except Exception as error:  # of any file system
                missing += [url] if is_missing(error) else []
                failed.append(f"{url} ({told(error)})")
                logger.warning("not read to its end: {}", failed[-1])
            listed += here
            if 0 < count <= len(different):
                break
        if missing == urls:
            raise no_files(urls, "conditions.held_out" if self.held_out else "conditions.url")
        if not different:
            raise UsageError(
                f"no prompts to evaluate with in {self.held_out or self.url!r}:"
                f" {'; '.join(failed[:5]) or 'there are none'}."
            )
        return list(different) if count else listed


@attrs.frozen(kw_only=True)
class PromptList(Conditions):
    """A few prompts, written out.

    Attributes:
        prompts: The prompts.
        shuffle: Whether each epoch has an order of its own, rather than the given one.
    """

    prompts: tuple[str, ...] = attrs.field(converter=_as_list, validator=v.min_len(1))
    shuffle: bool = True

    def open(self, conditioning: Conditioning, *, seed: int) -> PromptStream:
        """Start reading.

        Raises:
            UsageError: when the teacher takes no text.
        """
        check_kind(conditioning, "prompt-list")
        return PromptStream([len(self.prompts)], lambda _: self.prompts, seed=seed, shuffle=self.shuffle)

    def balanced(self, conditioning: Conditioning, count: int) -> list[str]:
        """Evenly spread over the different prompts, or all of them in turn.

        Raises:
            UsageError: when the teacher takes no text.
        """
        check_kind(conditioning, "prompt-list")
        return spread(list(dict.fromkeys(self.prompts)), count)


def check_kind(conditioning: Conditioning, name: str) -> None:
    """Refuse teachers that take no text.

    Args:
        conditioning: What the teacher takes.
        name: The source.

    Raises:
        UsageError: then.
    """
    if conditioning.kind != "text":
        raise UsageError(
            f"conditions {name!r} gives text, but the teacher takes {conditioning.kind!r} conditions with"
            f" {len(conditioning.classes)} classes. Choose a source of that kind: --conditions NAME."
        )


def spread(prompts: Sequence[str], count: int) -> list[str]:
    """``count`` of some prompts, evenly spread over them, or all of them in turn where they are fewer."""
    if count < len(prompts):
        return [prompts[i * len(prompts) // count] for i in range(count)]
    return [prompts[i % len(prompts)] for i in range(count)]
