"""How many prompts each file holds: ``Index``, which fixes their order for a whole run."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from itertools import islice
from typing import Any

import attrs

from dimo_prompts.captions import Broken, Layout
from dimo_prompts.reading import Reader

LINES = 10_000
"""Files of lines are divided into parts of so many, each of which is read by itself."""

KEPT = 20
"""So many broken prompts of a file are named."""


@attrs.frozen(kw_only=True)
class Part:
    """Prompts that are read at once: a shard, or some lines of a longer file.

    Attributes:
        url: The file.
        start: Its first byte.
        length: Its number of bytes; None where the file is read from its beginning.
        count: Whole prompts in it.
        digest: Of these prompts.
    """

    url: str
    start: int = 0
    length: int | None = None
    count: int
    digest: str

    def prompts(self, layout: Layout, reader: Reader) -> list[str]:
        """Read them, once more.

        Raises:
            EOFError: when there are fewer than there were.
            ValueError: when they are others.
        """
        found = list(islice(self._whole(layout, reader), self.count))
        if len(found) < self.count:
            raise EOFError(f"it holds {len(found)} prompts, and held {self.count}")
        if digest_of(found) != self.digest:
            raise ValueError("its prompts are others than they were")
        return found

    def _whole(self, layout: Layout, reader: Reader) -> Iterator[str]:
        if self.length is None:
            entries: Iterable[object] = read_whole(self.url, layout, reader)
        else:
            lines = reader.range(self.url, self.start, self.length)
            entries = (entry for _, entry in layout.of_lines(BytesIO(lines), self.url))
        return (entry for entry in entries if isinstance(entry, str))


@attrs.frozen(kw_only=True)
class Counted:
    """What was found in one file.

    Attributes:
        url: The file.
        parts: Its prompts.
        broken: Number of prompts that cannot be read.
        named: The first of them: where they are, and what is wrong.
        lost: Why the rest of the file cannot be read; empty when it was read to its end.
    """

    url: str
    parts: tuple[Part, ...] = ()
    broken: int = 0
    named: tuple[tuple[str, str], ...] = ()
    lost: str = ""

    @property
    def count(self) -> int:
        """Number of prompts."""
        return sum(part.count for part in self.parts)

    def at(self, url: str) -> "Counted":
        """The same, of a file that has another URL now, such as another signature."""
        return attrs.evolve(self, url=url, parts=tuple(attrs.evolve(part, url=url) for part in self.parts))

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        parts = [[part.start, part.length, part.count, part.digest] for part in self.parts]
        return {
            "url": self.url,
            "parts": parts,
            "broken": self.broken,
            "named": [*map(list, self.named)],
            "lost": self.lost,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Counted":
        """Read what ``as_dict`` gives.

        Raises:
            KeyError, TypeError, ValueError: for anything else.
        """
        parts = tuple(
            Part(url=data["url"], start=start, length=length, count=count, digest=digest)
            for start, length, count, digest in data["parts"]
        )
        named = tuple((key, reason) for key, reason in data["named"])
        return cls(url=data["url"], parts=parts, broken=data["broken"], named=named, lost=data["lost"])


@attrs.frozen(kw_only=True)
class Index:
    """What was found in all files.

    Attributes:
        files: In the order of their URLs.
    """

    files: tuple[Counted, ...]

    @property
    def parts(self) -> list[Part]:
        """All parts, in order."""
        return [part for file in self.files for part in file.parts]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"files": [file.as_dict() for file in self.files]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Index":
        """Read what ``as_dict`` gives.

        Raises:
            KeyError, TypeError, ValueError: for anything else.
        """
        return cls(files=tuple(map(Counted.from_dict, data["files"])))


class Count:
    """Counts the prompts of a file while it is read, so that something is left when it breaks off.

    Args:
        url: The file.
        layout: Where prompts are in it.
    """

    def __init__(self, url: str, layout: Layout) -> None:
        self.url, self.layout = url, layout
        self.parts: list[Part] = []
        self.named: list[tuple[str, str]] = []
        self.broken = 0

    def read(self, reader: Reader) -> None:
        """Read the file, to its end or up to an exception."""
        if self.layout.in_parts(self.url):
            with reader.open(self.url) as file:
                self._divide(self.layout.of_lines(file, self.url))
        else:
            found: list[str] = []
            try:
                for entry in read_whole(self.url, self.layout, reader):
                    self._take(entry, found)
            finally:
                self._close(found, 0, None)

    def _divide(self, lines: Iterable[tuple[int, object]]) -> None:
        """Make parts of lines of known lengths."""
        start = length = 0
        found: list[str] = []
        try:
            for number, (size, entry) in enumerate(lines, 1):
                self._take(entry, found)
                length += size
                if number % LINES == 0:
                    self._close(found, start, length)
                    start, length, found = start + length, 0, []
        finally:
            self._close(found, start, length)

    def _take(self, entry: object, found: list[str]) -> None:
        if isinstance(entry, str):
            found.append(entry)
        elif isinstance(entry, Broken):
            self.broken += 1
            if len(self.named) < KEPT:
                self.named.append((entry.key, entry.reason))

    def _close(self, found: Sequence[str], start: int, length: int | None) -> None:
        if found:
            part = Part(url=self.url, start=start, length=length, count=len(found), digest=digest_of(found))
            self.parts.append(part)

    def result(self, lost: str = "") -> Counted:
        """What was found.

        Args:
            lost: Why the rest cannot be read.
        """
        named = tuple(self.named)
        return Counted(url=self.url, parts=tuple(self.parts), broken=self.broken, named=named, lost=lost)


def read_whole(url: str, layout: Layout, reader: Reader) -> Iterator[object]:
    """What is found in the places of prompts, in a file that is read from its beginning to its end.

    Raises:
        Exception: of the file system, or what ``Layout.of_tar`` raises.
    """
    with reader.open(url, layout.compressor_of(url)) as file:
        if layout.format_of(url) == "tar":
            yield from layout.of_tar(file, url)
        else:
            yield from (entry for _, entry in layout.of_lines(file, url))


def digest_of(prompts: Iterable[str]) -> str:
    """A short digest of a list of prompts."""
    digest = hashlib.blake2b(digest_size=8)
    for prompt in prompts:
        digest.update(prompt.encode() + b"\0")
    return digest.hexdigest()
