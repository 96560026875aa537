"""A comparison: rows that are drawn and judged by one protocol, and can be interrupted and shared out."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import attrs
import torch

from dimo_core.device import device_name, noted
from dimo_core.engine.ranks import ALONE, Ranks
from dimo_core.errors import DimoError, UsageError
from dimo_core.evaluation.drawing import Method, Opened, Rows, Shard
from dimo_core.evaluation.intervals import half_sample_intervals
from dimo_core.evaluation.kept_samples import KeptSamples, claimed
from dimo_core.evaluation.protocols import Protocol, completes, differences, digest
from dimo_core.evaluation.reference import real_identity
from dimo_core.evaluation.store import Drawn, Store
from dimo_core.evaluation.table import Row
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import versions
from dimo_core.files.state import as_json
from dimo_core.files.weights import check_finite
from dimo_core.metric import Samples
from dimo_core.progress import Progress

SHOWN = 10
"""Samples that the grid shows of each row."""

PROTOCOL, TO_READ = "protocol.json", "protocol.yaml"
"""What all numbers in a folder were made by."""

ENOUGH = 20
"""Samples for each feature from which on a distance is hardly larger for being measured on few of them."""

COUNTS_DIFFER = "Rows differ in n: distances such as FID grow when there are fewer samples."


@attrs.define(kw_only=True, eq=False, slots=False)
class Comparison(Rows):
    """Draws and judges rows, one after the other.

    What is finished is kept in the folder and used again where protocol, model, seed, batch size and kind of
    device are the same.

    Attributes:
        protocol: How it is done.
        store: What is finished.
        intervals: Resamples for intervals; 0 for none.
        keep: Folder for the samples themselves; None keeps none.
        shard: Draw this part of the batches only, and judge nothing.
        ranks: The processes that share the batches; the first one judges, and writes what is no batch.
    """

    protocol: Protocol
    store: Store
    intervals: int = 0
    keep: str | None = None
    shard: Shard | None = None
    ranks: Ranks = ALONE
    _progress: Progress = attrs.field(init=False)
    _done: int = attrs.field(init=False, default=0)
    _found: int = attrs.field(init=False, default=0)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The protocol with what it refers to: extractor, reference data, files of metrics, prompts."""
        data, files, prompts = self.judge.data, self.judge.files, self._prompts()
        splits = (self.protocol.split, self.protocol.floor_split)
        return {
            **self.protocol.as_dict(),
            "fingerprint": self.judge.fingerprint,
            "reference": None if data is None else real_identity(data, splits),
            **({"files": files} if files else {}),
            **({"prompts": prompts} if prompts else {}),
        }

    def begin(self) -> str:
        """Write the protocol into the folder, or compare it with the one that is there.

        Where weights were missing then and are there now, it goes on: rows without them are judged again.

        Returns:
            The digest under which the folder was begun.

        Raises:
            UsageError: when the folder holds numbers of another protocol.
        """
        folder, facts = self.store.folder, as_json(self.facts)
        mine = began = digest(facts)
        if (before := self.store.purpose(PROTOCOL)) is not None:
            began = before.get("began", before["digest"])
            if before["digest"] == mine:
                return str(began)
            if not completes(facts, before["facts"]):
                different = differences([before["facts"], facts])
                raise UsageError(
                    f"{folder.url!r} holds numbers of another protocol; they differ in "
                    f"{'; '.join(different)}. Choose another --out; `dimo compare --merge` puts results in "
                    "one table."
                )
        self.store.write(PROTOCOL, {"digest": mine, "began": began, "facts": facts})
        folder.write_yaml(TO_READ, self.protocol.as_dict())
        return str(began)

    def run(self, methods: Sequence[Method]) -> list[list[dict[str, Any]]] | None:
        """The numbers of each method, a mapping for each seed; None when this is a shard.

        Args:
            methods: The rows.

        Raises:
            UsageError: when the folder holds numbers of another protocol.
        """
        of = self.ranks.led(self.begin)
        seeds = self.protocol.seeds
        cells = [
            (method, seed, request, self._kept(method, seed, request))
            for method in methods
            for seed in seeds
            for request in [self._request(of, method, seed)]
        ]
        share = self.shard.of if self.shard else self.ranks.size
        cost = sum(method.steps * self.protocol.samples // share for method, *_ in cells)
        self._progress, self._done, self._found = Progress(cost, interval=10.0, unit="sample steps"), 0, 0
        with self._progress:
            found = [self._cell(*cell) for cell in cells]
        return None if self.shard else [found[i : i + len(seeds)] for i in range(0, len(found), len(seeds))]

    def floor(self) -> dict[str, Any] | None:
        """The numbers of another real part; None when the protocol has none."""
        if self.judge.data is None or not self.protocol.floor_split:
            return None
        request = {"protocol": self.begin(), "real": self.protocol.floor_split}
        if (row := self.store.row(request)) is not None and self._complete(row):
            return row
        assert self.judge.floor is not None
        row = self.judged(self.judge.floor)
        self.store.keep_row(request, row, whole=not row["missing"])
        return row

    @property
    def machine(self) -> dict[str, str]:
        """What seconds depend on."""
        device = self.device if self.ranks.size == 1 else torch.device(self.device.type)  # of all processes
        return {"device": device_name(device), **noted(self.precision), **versions()}

    def judged(self, samples: Samples) -> dict[str, Any]:
        """The numbers of some samples, as plain data: metrics, what is missing of them, and intervals."""
        found = super().judged(samples)
        width = 0 if samples.features is None else samples.features.shape[1]
        intervals: dict[str, tuple[float, float]] = {}
        if self.intervals and len(samples) // 2 > width:
            intervals = half_sample_intervals(
                self.judge, samples, found["metrics"], count=self.intervals, seed=self.protocol.seeds[0]
            )
        return {
            **found,
            "intervals": {name: list(edges) for name, edges in intervals.items()},
            "resamples": self.intervals,
            "reference": len(self.judge.reference or ()),
            "width": width,
        }

    def shown_conditions(self) -> list[Any]:
        """The conditions of the grid, equal ones together."""
        chosen = self.raw(SHOWN)
        return sorted(chosen, key=lambda raw: [repr(each) for each in chosen].index(repr(raw)))

    def _request(self, of: str, method: Method, seed: int) -> dict[str, Any]:
        own = {"protocol": of, "seed": seed, "batch_size": self.batch_size, "device": self.device.type}
        return {**own, **noted(self.precision), **method.identity}

    def _prompts(self) -> str | None:
        """A hash of conditions that are no labels: their file may change; None for labels, or without any."""
        try:
            raw = self.raw()
        except DimoError:  # said when rows are drawn; pictures are judged without
            return None
        return None if all(isinstance(each, int) for each in raw) else digest({"raw": raw})

    def _complete(self, row: Mapping[str, Any]) -> bool:
        if "passes" in row and "machines" not in row:  # rows of older versions do not say where
            return False
        return not row["missing"] and (not self.intervals or row["resamples"] == self.intervals)

    def _cell(
        self, method: Method, seed: int, request: Mapping[str, Any], kept: KeptSamples | None
    ) -> dict[str, Any]:
        """The numbers of one method with one seed; none when this is a shard."""
        raw, ranks = self.raw(), self.ranks
        if (row := ranks.led(lambda: self._finished(request, kept, len(raw)))) is not None:
            self._advance(method, len(raw), len(raw), True)
            return row
        opened = ranks.agreed(lambda: self._opened(method))
        drawing = self.drawing(
            seed,
            block=self.protocol.block,
            onlooker=self.judge,
            store=self.store,
            request=request,
            kept=kept,
            machine=self.machine,
        )

        def drawn() -> Iterator[Drawn]:
            for batch in drawing.batches(raw, opened, self.shard or Shard.mine(ranks)):
                size = len(batch.samples)
                self._advance(method, size, batch.start + size, batch.found)
                if self.shard is None:
                    yield batch

        batches = ranks.gathered(drawn())
        if self.shard is not None:
            return {}
        for note in ranks.gathered(self.judge.notes):
            self.judge.note(note)

        def judged() -> dict[str, Any]:
            row = self.numbers(batches, opened.network)
            row["shown"] = self._shown(opened, seed) if seed == self.protocol.seeds[0] else None
            self.store.keep_row(request, row, whole=not row["missing"])
            return row

        return ranks.led(judged)

    def _finished(
        self, request: Mapping[str, Any], kept: KeptSamples | None, count: int
    ) -> dict[str, Any] | None:
        """The row, if it is there with all that is wanted of it."""
        row = self.store.row(request)
        there = row is not None and self._complete(row) and (kept is None or kept.there(range(count)))
        return row if there else None

    def _opened(self, method: Method) -> Opened:
        opened = method.open()
        check_finite(method.name, opened.network.state_dict())
        return opened

    def _kept(self, method: Method, seed: int, request: Mapping[str, Any]) -> KeptSamples | None:
        """Where a row's samples are kept: a folder that says what decides them, however they are judged."""
        if self.keep is None:
            return None
        drawn_by = {
            **{key: value for key, value in request.items() if key != "protocol"},
            "samples": self.protocol.samples,
            "block": self.protocol.block,
            "conditions": digest({"raw": self.raw()}),
        }
        several = len(self.protocol.seeds) > 1
        folder, of = Folder(self.keep), seed if several else None
        place = self.ranks.led(lambda: claimed(folder, method.name, of, drawn_by, self.teacher).folder)
        return KeptSamples(folder=place, teacher=self.teacher)

    def _shown(self, opened: Opened, seed: int) -> list[list[int]]:
        """Tokens for the grid: the same conditions and draws for every method."""
        raw = self.shown_conditions()
        tokens: list[list[int]] = self.drawing(seed, "showcase", len(raw)).draw(raw, opened).tokens.tolist()
        return tokens

    def _advance(self, method: Method, count: int, done: int, found: bool) -> None:
        self._done += method.steps * count
        self._found += method.steps * count * found
        note = f"{method.name}: {done} of {self.protocol.samples}"
        self._progress.advance(self._done, {}, note, found=self._found)


def size_notes(width: int, rows: Sequence[Row], option: str, reference: int = 0) -> list[str]:
    """Warnings about sample counts: distances between distributions are too large for few samples.

    Args:
        width: Features in which distances are measured; 0 for none.
        rows: The rows.
        option: What raises the number of samples.
        reference: Real samples that they are compared with; 0 for none, or if nobody knows.
    """
    drawn = {row.samples for row in rows if row.kind != "real"}
    if not drawn or not width:
        return []
    fewest, notes = min(drawn), []
    if 0 < reference <= width:
        notes.append(
            f"{reference} real samples are few for {width} features: distances come out far too large."
        )
    if fewest <= width:
        notes.append(
            f"{fewest} samples are few for {width} features: distances such as FID come out far too large. "
            f"Raise {option}."
        )
        return notes
    if len(drawn) > 1:
        notes.append(COUNTS_DIFFER)
    if fewest < ENOUGH * width:
        notes.append(
            f"{fewest} samples for {width} features: distances such as FID come out too large, so compare "
            f"them at the same n only. From {ENOUGH * width} on it hardly matters ({option})."
        )
    return notes
