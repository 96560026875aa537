"""The files of ``dimo sample``: pictures or lines, and what they are, written as they are drawn."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from shlex import quote
from typing import Any

import attrs
import fsspec
import torch
from loguru import logger

from dimo_core.conditions import Conditioning, from_text
from dimo_core.engine.ranks import ALONE, Ranks
from dimo_core.errors import Interrupted, UsageError
from dimo_core.evaluation.drawing import Drawing, Opened, Shard
from dimo_core.evaluation.kept_samples import KeptSamples, lines_of
from dimo_core.evaluation.reference import record_seal
from dimo_core.evaluation.store import Drawn, Store
from dimo_core.files.folder import Folder
from dimo_core.files.images import GRID, RECORDS, read_picture
from dimo_core.files.owner import owned
from dimo_core.files.prompts import PromptSet
from dimo_core.files.state import SEAL
from dimo_core.files.weights import sha256
from dimo_core.report.sheets import sheet
from dimo_core.sources import Conditions
from dimo_core.teacher import Preview
from dimo_core.texts import masked

PLACE, REQUEST = "unfinished", "request.json"
LINES = "samples.txt"

SHOWN = 100
"""The most samples that ``grid.png`` shows."""

SHEET = 2**24
"""The most pixels of the samples that ``grid.png`` shows; larger pictures are shown in smaller number."""


@contextmanager
def open_folder(url: str) -> Iterator[Folder]:
    """A folder for samples, which nobody else writes to: an empty one, or one in which drawing was stopped.

    Raises:
        UsageError: when there is something else in it, or another process writes to it.
        StorageError: when it cannot be written.
    """
    with owned(url) as folder:
        if not folder.exists(PLACE, REQUEST) and folder.strange_names():
            text = f"{folder.url!r} is not empty, and samples overwrite nothing. Choose another --out."
            raise UsageError(text)
        yield folder


@attrs.frozen(kw_only=True)
class Wanted:
    """What is to be drawn.

    Attributes:
        raw: The condition of each sample.
        files: The picture of each sample, relative to the folder; ``.jpg`` or ``.png``.
        extras: Further files.
    """

    raw: Sequence[Any]
    files: Sequence[str]
    extras: Mapping[str, bytes] = attrs.field(factory=dict)

    @classmethod
    def of(
        cls,
        conditioning: Conditioning,
        source: Conditions | None,
        given: Sequence[str] | PromptSet | None,
        count: int,
    ) -> "Wanted":
        """Conditions as the arguments of ``dimo sample`` give them, in turn.

        Args:
            conditioning: What the teacher takes.
            source: Reads them, and gives them evenly spread where none are given; None where it is not known.
            given: Class names or indices, prompts, or what the source reads.
            count: How many; a ``PromptSet`` has its own number.

        Raises:
            UsageError: for one that the teacher does not take, or when there are none.
        """
        texts = given.conditions() if isinstance(given, PromptSet) else given
        if source is None and conditioning.kind == "none":
            texts = texts or [""]
        if texts:
            raw = (source.parse if source else from_text)(conditioning, texts)
        elif source is None and not conditioning.classes:
            text = f"this teacher takes {conditioning.kind} conditions. Give some: --conditions ..."
            raise UsageError(text)
        else:
            raw = source.balanced(conditioning, count) if source else [*range(len(conditioning.classes))]
        if isinstance(given, PromptSet):
            return cls(raw=raw, files=given.files(), extras=given.extras())
        raw = [raw[i % len(raw)] for i in range(count)]
        return cls(raw=raw, files=[f"{i:05d}.png" for i in range(count)])


@attrs.define(kw_only=True, eq=False)
class SampleFiles:
    """Samples in a folder, batch by batch.

    Attributes:
        folder: Where, as ``open_folder`` gave it.
        drawing: How samples are drawn.
        wanted: Which ones.
        model: What they are drawn from.
        facts: What every line of ``samples.jsonl`` says.
        ranks: The processes that share the batches; each writes its own, and the first one the rest.
    """

    folder: Folder
    drawing: Drawing
    wanted: Wanted
    model: Mapping[str, Any]
    facts: Mapping[str, Any]
    ranks: Ranks = ALONE

    @property
    def store(self) -> Store:
        """What is finished."""
        return Store(self._own.sub(PLACE))

    @property
    def request(self) -> dict[str, Any]:
        """What is asked for."""
        wanted = json.dumps([list(self.wanted.raw), list(self.wanted.files)], default=str)
        return {
            "model": self.model,
            **self.facts,
            "samples": len(self.wanted.raw),
            "conditions": sha256(wanted.encode()),
            "batch_size": self.drawing.batch_size,
            "device": self.drawing.device.type,
        }

    def draw(self, opened: Opened) -> Iterator[Drawn]:
        """The batches of this process, without pictures; those that are not there yet are drawn and written.

        Args:
            opened: Draws them.

        Raises:
            Interrupted: for Ctrl-C.
        """
        name = self.wanted.files.__getitem__
        kept = KeptSamples(folder=self._own, teacher=self.drawing.teacher, name=name)
        drawing = attrs.evolve(
            self.drawing,
            store=self.store,
            request=self.request,
            kept=kept if self._decodes else None,
        )
        shard, starts, done = Shard.mine(self.ranks), self.store.starts(self.request), 0
        spans = [self._spans[place] for place in shard.among(len(self._spans))]
        count = sum(map(len, spans))
        if known := sum(len(span) for span in spans if span.start in starts):
            logger.info("{} of {} samples are there already", known, count)

        try:
            for batch in drawing.batches(self.wanted.raw, opened, shard):
                done += len(batch.samples)
                if not batch.found:
                    logger.log("INFO" if done < count else "DEBUG", "{} of {} samples", done, count)
                samples = attrs.evolve(batch.samples, images=None)
                yield attrs.evolve(batch, samples=samples, seconds=0.0 if batch.found else batch.seconds)
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped after {done} of {count} samples. The same command with --out "
                f"{quote(self.folder.url)} draws the rest."
            ) from None

    def claim(self) -> None:
        """Take the folder for these samples.

        Raises:
            UsageError: when it holds samples of another request.
        """
        if names := self.store.claim(REQUEST, self.request):
            raise UsageError(
                f"{self.folder.url!r} holds a part of other samples than are asked for now: they differ in "
                f"{', '.join(names)}. Give the options of then to draw their rest, or another --out."
            )

    def finish(self) -> list[str]:
        """Write the rest; ``samples.jsonl`` comes last. Returns all files."""
        written = dict(self.wanted.extras)
        pictures = self.wanted.files if self._decodes else []
        if pictures:
            written[GRID] = self._grid()
        else:
            teacher = self.drawing.teacher
            written[LINES] = b"".join(lines_of(batch, teacher) for batch in self._batches())
        for name, data in written.items():
            self.folder.write(name, data)
        self.folder.write(RECORDS, (self._records(batch) for batch in self._batches()))
        self.folder.remove(PLACE)
        return [self.folder.path(name) for name in (*pictures, *written, RECORDS)]

    def _grid(self) -> bytes:
        """The first pictures, those of one condition together, as they lie in the folder."""
        filesystem, root = fsspec.core.url_to_fs(self.folder.url)
        pictures = (read_picture(filesystem, f"{root}/{name}") for name in self.wanted.files)
        images = [first := next(pictures)]
        images += islice(pictures, min(SHOWN, max(1, SHEET // first[0].numel())) - 1)
        names = [self.drawing.teacher.describe(condition) for condition in self.wanted.raw[: len(images)]]
        order = sorted(range(len(images)), key=lambda i: names.index(names[i]))
        shown = Preview(images=torch.stack([images[i] for i in order]))
        return sheet(shown, [names[i] for i in order]).data

    @property
    def _own(self) -> Folder:
        """The folder, to which each process writes what it drew."""
        return attrs.evolve(self.folder, mute=False)

    @property
    def _decodes(self) -> bool:
        return "decode" in self.drawing.teacher.capabilities

    @property
    def _spans(self) -> list[range]:
        return self.drawing.spans(len(self.wanted.raw))

    def _batches(self) -> Iterator[Drawn]:
        """All batches, as they are kept."""
        for span in self._spans:
            batch = self.store.batch(self.request, span.start, tuple(self.wanted.raw[span.start : span.stop]))
            assert batch is not None, "it was written or read a moment ago"
            yield batch

    def _records(self, batch: Drawn) -> bytes:
        """A line for each sample of a batch."""
        teacher, calls = self.drawing.teacher, batch.samples.calls
        passes = [batch.passes] * len(batch.tokens) if calls is None else calls.tolist()
        records = [
            {
                "file": self.wanted.files[i] if self._decodes else LINES,
                "index": i,
                "of": len(self.wanted.raw),
                "condition": teacher.describe(self.wanted.raw[i]),
                **masked(self.facts),
                "passes": passes[i - batch.start],
                "tokens": row,
            }
            for i, row in enumerate(batch.tokens.tolist(), batch.start)
        ]
        return "".join(f"{json.dumps({**r, SEAL: record_seal(r)})}\n" for r in records).encode()
