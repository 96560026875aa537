"""Prompts by position, in an order of each epoch, read from slow files ahead of time: ``PromptStream``."""

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import lru_cache
from itertools import accumulate
from typing import Any

import attrs
from loguru import logger

from dimo_core.draws import permutation
from dimo_core.errors import SourceError
from dimo_core.sources import ConditionStream

Load = Callable[[int], Sequence[str]]
"""Reads the prompts of a part."""


@attrs.frozen(kw_only=True)
class Order:
    """The order of parts in one epoch.

    Attributes:
        parts: Their numbers, in turn.
        starts: Position of each one's first prompt within the epoch.
    """

    parts: Sequence[int]
    starts: Sequence[int]


class PromptStream(ConditionStream):
    """Epochs without end: parts in a fresh order, and the prompts of each part in a fresh order.

    Both orders depend on (seed, epoch) alone, and a position is in one part only, so that any position is
    found by reading one part.

    Args:
        counts: Prompts in each part.
        load: Reads a part, perhaps slowly; it is called in several threads.
        seed: Fixes the orders.
        shuffle: Whether to shuffle; if not, every epoch has the order of the parts.
        ahead: So many parts are read before they are needed.
        record: What is needed to open the stream again.
    """

    def __init__(
        self,
        counts: Sequence[int],
        load: Load,
        *,
        seed: int,
        shuffle: bool = True,
        ahead: int = 0,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        self.counts, self.total = counts, sum(counts)
        self.seed, self.shuffle, self.ahead = seed, shuffle, ahead
        self._record = record
        self._shelf = Shelf(load, room=ahead + 2)
        self._order = lru_cache(4)(self._new_order)
        self._rows = lru_cache(ahead + 2)(self._new_rows)

    def __len__(self) -> int:
        """Prompts in an epoch."""
        return self.total

    def record(self) -> Mapping[str, Any] | None:
        """The index, as plain data."""
        return self._record

    def read(self, start: int, count: int) -> list[str]:
        """The prompts at global positions start .. start + count - 1.

        Raises:
            SourceError: when a part that could be read before cannot be read any more.
        """
        found: list[str] = []
        while len(found) < count:
            epoch, place = divmod(start + len(found), self.total)
            order = self._order(epoch)
            turn = bisect_right(order.starts, place) - 1
            part, offset = order.parts[turn], place - order.starts[turn]
            prompts = self._shelf.get(part, self._following(epoch, turn))
            rows = self._rows(epoch, part)[offset : offset + count - len(found)]
            found += [prompts[row] for row in rows]
        return found

    def _following(self, epoch: int, turn: int) -> list[int]:
        """The parts that come next, also those of the next epochs."""
        found: list[int] = []
        for _ in range(min(self.ahead, len(self.counts) - 1)):
            turn += 1
            if turn == len(self.counts):
                epoch, turn = epoch + 1, 0
            found.append(self._order(epoch).parts[turn])
        return found

    def _new_order(self, epoch: int) -> Order:
        count = len(self.counts)
        parts = permutation(self.seed, epoch, count, "parts") if self.shuffle else range(count)
        starts = [0, *accumulate(self.counts[part] for part in parts)][:-1]
        return Order(parts=parts, starts=starts)

    def _new_rows(self, epoch: int, part: int) -> Sequence[int]:
        count = self.counts[part]
        return permutation(self.seed, epoch, count, "prompts", part) if self.shuffle else range(count)


class Shelf:
    """The parts that were read last, and those that are being read ahead of time.

    Args:
        load: Reads a part.
        room: How many are kept.
    """

    def __init__(self, load: Load, room: int) -> None:
        self._load, self._room = load, room
        self._held: OrderedDict[int, Future[Sequence[str]]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, part: int, following: Sequence[int] = ()) -> Sequence[str]:
        """The prompts of a part; reading of the following ones begins.

        Raises:
            SourceError: when it cannot be read.
        """
        future, new = self._claim(part)
        for other in following:
            ahead, unread = self._claim(other)
            if unread:
                # A thread that still waits for a connection must not keep the program from ending.
                threading.Thread(target=self._fill, args=(other, ahead), daemon=True).start()
        if new:
            self._fill(part, future)
        try:
            return future.result()
        except SourceError as error:
            if new:
                raise
            logger.warning("{} Once more, now that it is needed.", error)
            return self.get(part)

    def _claim(self, part: int) -> tuple[Future[Sequence[str]], bool]:
        """The future of a part, and whether the caller must fill it."""
        with self._lock:
            new = part not in self._held
            future = self._held.setdefault(part, Future())
            self._held.move_to_end(part)
            while len(self._held) > self._room:
                self._held.popitem(last=False)
            return future, new

    def _fill(self, part: int, future: Future[Sequence[str]]) -> None:
        try:
            future.set_result(self._load(part))
        except BaseException as error:
            with self._lock:
                if self._held.get(part) is future:  # the next one who asks reads it again
                    del self._held[part]
            future.set_exception(error)
