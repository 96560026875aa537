"""The batches of one row: those that are finished already are read, the others are drawn."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import attrs

from dimo_core.evaluation.drawing import Drawing, DrawnBatch, Opened
from dimo_core.evaluation.judge import Judge
from dimo_core.evaluation.kept_samples import KeptPictures
from dimo_core.evaluation.row_store import Part, RowStore
from dimo_core.metric import Samples

Told = Callable[[int, int, bool], None]
"""Receives the samples of a batch, those of the row up to its end, and whether it was there before."""


@attrs.frozen(kw_only=True)
class Shard:
    """Which part of the batches of a row a process draws.

    Attributes:
        index: From 1 up.
        of: How many parts there are.
    """

    index: int
    of: int

    def among(self, count: int) -> range:
        """Its batches, by number, of so many."""
        return range((self.index - 1) * count // self.of, self.index * count // self.of)


@attrs.frozen(kw_only=True, eq=False)
class RowBatches:
    """The batches of one row and seed.

    Attributes:
        drawing: How samples are drawn.
        raw: The condition of each sample.
        opened: What draws them.
        request: What was asked for; batches of another request are not used.
        kept: Where the samples themselves are kept; None for nowhere.
        judge: Says what need be remembered of a batch.
        store: The finished batches.
        machine: What seconds depend on here.
    """

    drawing: Drawing
    raw: Sequence[Any]
    opened: Opened
    request: Mapping[str, Any]
    kept: KeptPictures | None
    judge: Judge
    store: RowStore
    machine: Mapping[str, str]

    def all(self, told: Told) -> Iterator[Part]:
        """All batches in order."""
        return self._parts(Shard(index=1, of=1), told)

    def draw(self, shard: Shard, told: Told) -> None:
        """Draw and keep the batches of a shard; none stays in memory."""
        for _ in self._parts(shard, told):
            pass

    def _parts(self, shard: Shard, told: Told) -> Iterator[Part]:
        starts = self.drawing.starts(len(self.raw))
        waiting: list[int] = []
        for place in shard.among(len(starts)):
            part = self._found(starts[place])
            if part is None:
                waiting.append(place)
                continue
            yield from self._drawn(waiting, told)
            waiting = []
            told(len(part.samples), starts[place] + len(part.samples), True)
            yield part
        yield from self._drawn(waiting, told)

    def _drawn(self, places: Sequence[int], told: Told) -> Iterator[Part]:
        """Draw consecutive batches, and keep them."""
        if not places:
            return
        drawn = self.drawing.batches(self.raw, self.opened.draw, self.opened.network, done=places[0])
        for batch in islice(drawn, len(places)):
            if self.kept is not None:
                self.kept.keep(batch)
            part = Part(
                samples=self._reduced(batch),
                passes=batch.passes,
                seconds=batch.seconds,
                decoding=batch.decoding,
                machine=self.machine,
            )
            self.store.keep_part(self.request, batch.start, part)
            told(len(batch.tokens), batch.start + len(batch.tokens), False)
            yield part

    def _found(self, start: int) -> Part | None:
        """A finished batch; its images are decoded anew where something wants them.

        That is a metric, the folder of kept samples, or what had no weights when it was drawn.
        """
        block = self.drawing.block
        end = min(start + self.drawing.batch_size, (start // block + 1) * block, len(self.raw))
        part = self.store.part(self.request, start, tuple(self.raw[start:end]))
        if part is None or part.samples.tokens is None:
            return None
        wanted = self.kept is not None and not self.kept.there(start, end - start)
        decodes = "decode" in self.drawing.teacher.capabilities
        lacking = decodes and self.judge.lacks(part.samples)
        if not (wanted or lacking or self.judge.keeps_images):
            return part
        tokens = part.samples.tokens
        bare = DrawnBatch(start=start, tokens=tokens, images=None, passes=part.passes, seconds=part.seconds)
        batch = self.drawing.decoded(self.raw, bare)
        if wanted and self.kept is not None:
            self.kept.keep(batch)
        if lacking:
            part = attrs.evolve(part, samples=self._reduced(batch))
            self.store.keep_part(self.request, start, part)
        images = batch.images if self.judge.keeps_images else None
        return attrs.evolve(part, samples=attrs.evolve(part.samples, images=images))

    def _reduced(self, batch: DrawnBatch) -> Samples:
        """What need be remembered of a batch."""
        raw = self.raw[batch.start : batch.start + len(batch.tokens)]
        return self.judge.reduced(Samples(conditions=tuple(raw), tokens=batch.tokens, images=batch.images))
