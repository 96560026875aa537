"""Making an index: every file is read once, several at a time, and the result is kept."""

import hashlib
import json
import os
import threading
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path

import attrs
from loguru import logger

from dimo_core.errors import UsageError
from dimo_core.files.cache import cache_folder
from dimo_core.files.urls import is_missing
from dimo_core.progress import Progress
from dimo_core.streams import FEW
from dimo_core.texts import masked
from dimo_prompts.captions import Layout
from dimo_prompts.index import LINES, Count, Counted, Index
from dimo_prompts.reading import Reader, told

NAMED = 20
"""Broken files and prompts that the log names."""

MISSING = "no such file"
"""Why nothing was read of a file that is not there."""

FIRST = 3
"""When so many files hold nothing but broken prompts, the others are not looked at."""


@attrs.frozen(kw_only=True)
class Indexer:
    """Reads files and counts what is in them.

    Attributes:
        layout: Where prompts are in them.
        reader: Opens them.
        max_broken: Share of the prompts, and of the files, that may be broken.
        threads: How many files are read at once.
    """

    layout: Layout
    reader: Reader
    max_broken: float
    threads: int

    def index(self, urls: Sequence[str]) -> Index:
        """Count the prompts of files.

        Raises:
            UsageError: when they hold none, too many are broken, or a name does not say what a file is.
        """
        for url in urls:
            self.layout.format_of(url)
        done: list[Counted] = []
        with Progress(len(urls), unit="file") if len(urls) > self.threads else nullcontext() as progress:
            for file in self._counted(urls):
                done.append(file)
                if progress is not None:
                    progress.advance(len(done), {})
                self._check(done, len(urls))
        _name_broken(done)
        logger.info("{:,} prompts in {:,} files", sum(file.count for file in done), len(done))
        return Index(files=tuple(done))

    def _counted(self, urls: Sequence[str]) -> Iterator[Counted]:
        """What is found in each file, in order; several are read at once."""
        waiting = deque((url, Future[Counted]()) for url in urls)
        futures = [future for _, future in waiting]

        def work() -> None:
            while True:
                try:
                    url, future = waiting.popleft()
                except IndexError:
                    return
                try:
                    future.set_result(self.count(url))
                except BaseException as error:
                    future.set_exception(error)

        for _ in range(min(self.threads, len(urls))):
            # A thread that still waits for a connection must not keep the program from ending.
            threading.Thread(target=work, daemon=True).start()
        try:
            for future in futures:
                yield future.result()
        finally:
            waiting.clear()

    def count(self, url: str) -> Counted:
        """What is found in one file, now or when this version of it was last counted."""
        try:
            version = self.reader.version(url)
        except Exception as error:  # of any file system; where there are no facts, there may be a file
            logger.debug("{}: no facts ({})", url, told(error))
            version = {}
        place = self._place(url, version) if version else None
        if place is not None and (kept := _kept(place)) is not None:
            return kept.at(url)
        found = self._read(url)
        if place is not None and not found.lost:
            _keep(place, found)
        return found

    def _read(self, url: str) -> Counted:
        """Read a file; of several attempts that break off, the longest counts."""
        attempts: list[Count] = []

        def attempt() -> Counted:
            attempts.append(Count(url, self.layout))
            attempts[-1].read(self.reader)
            return attempts[-1].result()

        try:
            return self.reader.retried(url, attempt)
        except Exception as error:  # of file system, tarfile or decompressor
            reason = MISSING if is_missing(error) else told(error)
            return max((one.result(reason) for one in attempts), key=lambda one: one.count)

    def _place(self, url: str, version: dict[str, str]) -> Path:
        """Where the result for this version of a file is kept."""
        key = [masked(url), self.layout.format_of(url), self.layout.field, LINES, sorted(version.items())]
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
        return cache_folder() / "prompts" / f"{name}.json"

    def _check(self, done: Sequence[Counted], files: int) -> None:
        """Stop as soon as it is certain that too much is broken, or nearly so.

        Raises:
            UsageError: then.
        """
        some, share = self.max_broken > 0, self.max_broken
        good, broken = sum(file.count for file in done), sum(file.broken for file in done)
        lost = [file for file in done if file.lost]
        finished = len(done) == files
        hopeless = not good and (finished or (len(done) == FIRST and broken > FEW and share < 1))
        too_many = finished and broken > max(FEW * some, int(share * (good + broken)))
        if hopeless and all(file.lost == MISSING for file in done):
            raise no_files([file.url for file in done], "conditions.url")
        if hopeless and not (broken or lost):
            more = f" and {len(done) - 1} more" if len(done) > 1 else ""
            raise UsageError(f"conditions.url: {done[0].url!r}{more}: empty. Name files that hold prompts.")
        if hopeless or too_many or len(lost) > max(some, int(share * files)):
            named = [(file.url, file.lost) for file in lost]
            named += [(f"{file.url}, {key}", reason) for file in done for key, reason in file.named]
            listed = "; ".join(f"{key} ({reason})" for key, reason in named[:5])
            raise UsageError(
                f"{good} prompts can be read and {broken} cannot, {len(lost)} of {len(done)} files not to"
                f" their end (of {files}); max_broken allows a share of {share:g}: {listed}. Check"
                " conditions.url and conditions.field, mend the files, or allow more."
            )


def no_files(urls: Sequence[str], option: str) -> UsageError:
    """What to say when none of the files of an option is there.

    Args:
        urls: The files.
        option: Its name.
    """
    more = f", nor any of {len(urls) - 1} others" if len(urls) > 1 else ""
    return UsageError(
        f"no file {urls[0]!r}{more}, which {option} names. It takes paths and fsspec URLs of .txt, .jsonl and"
        f" .tar files, with braces and wildcards. Check the name (this is {os.getcwd()}), or give another."
    )


def _name_broken(files: Sequence[Counted]) -> None:
    """Log what was left out."""
    left = [(file.url, f"{file.lost}; {file.count} prompts before that") for file in files if file.lost]
    left += [(f"{file.url}, {key}", reason) for file in files for key, reason in file.named]
    for key, reason in left[:NAMED]:
        logger.warning("not read: {} ({})", key, reason)
    if left:
        broken, lost = sum(file.broken for file in files), sum(bool(file.lost) for file in files)
        logger.warning("left out: {} prompts; {} of {} files from some point on", broken, lost, len(files))


def _kept(place: Path) -> Counted | None:
    """A result that was kept, if it is there and whole."""
    try:
        return Counted.from_dict(json.loads(place.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(place: Path, found: Counted) -> None:
    """Write a result whole or not at all; a cache that cannot be written does no harm."""
    part = place.with_suffix(f".{uuid.uuid4().hex[:8]}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(masked(found.as_dict())))
        os.replace(part, place)
    except OSError as error:
        logger.warning("the count of {} is not kept: {}", found.url, error)
