"""A comparison: rows that are drawn and judged by one protocol, and can be interrupted and shared out."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import torch
from torch import nn

from dimo_core.backbone import Backbone, inference
from dimo_core.conditions import Condition
from dimo_core.device import device_name
from dimo_core.draws import Draws
from dimo_core.errors import DimoError, UsageError
from dimo_core.evaluation.drawing import Draw, Drawing, Method, Opened
from dimo_core.evaluation.intervals import half_sample_intervals
from dimo_core.evaluation.judge import Judge
from dimo_core.evaluation.kept_samples import KeptPictures
from dimo_core.evaluation.protocols import Protocol, completes, differences, digest
from dimo_core.evaluation.reference import real_identity
from dimo_core.evaluation.row_batches import RowBatches, Shard
from dimo_core.evaluation.row_store import RowStore
from dimo_core.evaluation.table import Kind, Row, Table
from dimo_core.files.generator_folder import versions
from dimo_core.files.weights import check_finite
from dimo_core.generator import Generator
from dimo_core.guidance import Guidance
from dimo_core.metric import Samples, joined_samples
from dimo_core.progress import Progress
from dimo_core.registry import Loader, built
from dimo_core.sampler import Sampled, Sampler, TeacherSampling, described
from dimo_core.settings import Evaluate
from dimo_core.sources import Conditions
from dimo_core.suggestions import EvaluationPlan
from dimo_core.teacher import Teacher

SHOWN = 10
"""Samples that the grid shows of each row."""

PROTOCOL = "protocol.json"
"""What all numbers in a folder were made by."""


@attrs.define(kw_only=True, eq=False)
class Comparison:
    """Draws and judges rows, one after the other.

    Random numbers depend on the seed and the sample's position alone, so all rows share them. What is
    finished is kept in the folder and used again where protocol, model, seed, batch size and kind of device
    are the same.

    Attributes:
        teacher: Encodes conditions and decodes tokens; on ``device``.
        protocol: How it is done.
        judge: Computes the numbers.
        conditions: Gives the conditions.
        store: What is finished.
        device: Where samples are drawn.
        batch_size: Samples drawn at a time.
        intervals: Resamples for intervals; 0 for none.
        keep: Folder for the samples themselves; None keeps none.
        shard: Draw this part of the batches only, and judge nothing.
    """

    teacher: Teacher
    protocol: Protocol
    judge: Judge
    conditions: Conditions
    store: RowStore
    device: torch.device
    batch_size: int
    intervals: int = 0
    keep: str | None = None
    shard: Shard | None = None
    _progress: Progress = attrs.field(init=False)
    _done: int = attrs.field(init=False, default=0)
    _found: int = attrs.field(init=False, default=0)
    _facts: dict[str, Any] | None = attrs.field(init=False, default=None)

    def facts(self) -> dict[str, Any]:
        """The protocol with what it refers to: extractor, reference data, files of metrics, prompts."""
        if self._facts is None:
            data, files, prompts = self.judge.data, self.judge.files, self._prompts()
            splits = (self.protocol.split, self.protocol.floor_split)
            self._facts = {
                **self.protocol.as_dict(),
                "fingerprint": self.judge.fingerprint,
                "reference": None if data is None else real_identity(data, splits),
                **({"files": files} if files else {}),
                **({"prompts": prompts} if prompts else {}),
            }
        return self._facts

    def begin(self) -> str:
        """Write the protocol into the folder, or compare it with the one that is there.

        Where weights were missing then and are there now, it goes on: rows without them are judged again.

        Returns:
            The digest under which the folder was begun.

        Raises:
            UsageError: when the folder holds numbers of another protocol.
        """
        folder, facts = self.store.folder, _plain(self.facts())
        mine = began = digest(facts)
        if folder.exists(PROTOCOL):
            before = folder.read_yaml(PROTOCOL)
            began = before.get("began", before["digest"])
            if before["digest"] == mine:
                return str(began)
            if not completes(facts, before["facts"]):
                different = differences({before["digest"]: before["facts"], mine: facts})
                raise UsageError(
                    f"{folder.url!r} holds numbers of another protocol; they differ in "
                    f"{'; '.join(different)}. Choose another --out; `dimo compare --merge` puts results in "
                    "one table."
                )
        folder.write_json(PROTOCOL, {"digest": mine, "began": began, "facts": facts})
        folder.write_yaml("protocol.yaml", self.protocol.as_dict())
        return str(began)

    def run(self, methods: Sequence[Method]) -> list[list[dict[str, Any]]] | None:
        """The numbers of each method, a mapping for each seed; None when this is a shard.

        Args:
            methods: The rows.

        Raises:
            UsageError: when the folder holds numbers of another protocol.
        """
        of = self.begin()
        cells = [(method, seed, self._request(of, method, seed)) for method in methods for seed in self.seeds]
        for method, seed, request in cells:
            if (kept := self._kept(method, seed)) is not None:
                kept.claim(self._drawn_by(request))
        self._progress = Progress(
            sum(self._cost(method) for method, _, _ in cells), interval=10.0, unit="sample steps"
        )
        self._done, self._found, found = 0, 0, []
        with self._progress:
            for method, seed, request in cells:
                found.append(self._cell(method, seed, request))
        if self.shard is not None:
            return None
        self.store.clear()
        per = len(self.seeds)
        return [[row for row in found[i : i + per] if row] for i in range(0, len(found), per)]

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
    def seeds(self) -> tuple[int, ...]:
        """The seeds of each row."""
        return self.protocol.seeds

    @property
    def machine(self) -> dict[str, str]:
        """What seconds depend on."""
        return {"device": device_name(self.device), **versions()}

    def _request(self, of: str, method: Method, seed: int) -> dict[str, Any]:
        return {
            "protocol": of,
            "seed": seed,
            "batch_size": self.batch_size,
            "device": self.device.type,
            **method.identity,
        }

    def _drawn_by(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What decides a row's samples, however they are judged."""
        protocol = {"samples": self.protocol.samples, "block": self.protocol.block}
        conditions = digest({"raw": self._raw()})
        return {**{k: v for k, v in request.items() if k != "protocol"}, **protocol, "conditions": conditions}

    def _prompts(self) -> str | None:
        """A hash of conditions that are no labels: their file may change; None for labels, or without any."""
        try:
            raw = self._raw()
        except DimoError:  # said when rows are drawn; pictures are judged without
            return None
        return None if all(isinstance(each, int) for each in raw) else digest({"raw": raw})

    def _raw(self) -> list[Any]:
        """The condition of each sample."""
        return list(self.conditions.balanced(self.teacher.conditioning, self.protocol.samples))

    def _cost(self, method: Method) -> int:
        return method.steps * self.protocol.samples // (self.shard.of if self.shard else 1)

    def _complete(self, row: Mapping[str, Any]) -> bool:
        if "passes" in row and "machines" not in row:  # rows of older versions do not say where
            return False
        return not row["missing"] and (not self.intervals or row["resamples"] == self.intervals)

    def _cell(self, method: Method, seed: int, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """The numbers of one method with one seed; None when this is a shard."""
        drawing = Drawing(
            teacher=self.teacher,
            seed=seed,
            phase="evaluation",
            device=self.device,
            batch_size=self.batch_size,
            block=self.protocol.block,
        )
        raw = self._raw()
        kept = self._kept(method, seed)
        row = self.store.row(request)
        if row is not None and self._complete(row) and (kept is None or kept.there(0, len(raw))):
            self._advance(method, len(raw), len(raw), found=True)
            return row
        opened = method.open()
        check_finite(method.name, opened.network)
        batches = RowBatches(
            drawing=drawing,
            raw=raw,
            opened=opened,
            request=request,
            kept=kept,
            judge=self.judge,
            store=self.store,
            machine=self.machine,
        )
        told = partial(self._advance, method)
        if self.shard is not None:
            batches.draw(self.shard, told)
            return None
        parts = list(batches.all(told))
        facts = {
            "passes": max(part.passes for part in parts),
            "seconds": sum(part.seconds for part in parts),
            "decoding": sum(part.decoding for part in parts),
            "parameters": sum(p.numel() for p in opened.network.parameters()),
            "machines": [
                dict(pairs) for pairs in dict.fromkeys(tuple(part.machine.items()) for part in parts)
            ],
            "shown": self._shown(opened, seed) if seed == self.seeds[0] else None,
        }
        row = {**facts, **self.judged(joined_samples([part.samples for part in parts]))}
        self.store.keep_row(request, row, whole=not row["missing"])
        return row

    def judged(self, samples: Samples) -> dict[str, Any]:
        """The numbers of some samples, as plain data: metrics, what is missing of them, and intervals."""
        found, intervals = self.judge.judged(samples), {}
        width = 0 if samples.features is None else samples.features.shape[1]
        if self.intervals and len(samples) // 2 > width:
            intervals = half_sample_intervals(
                self.judge, samples, found.numbers, count=self.intervals, seed=self.seeds[0]
            )
        return {
            "samples": len(samples),
            "metrics": dict(found.numbers),
            "missing": list(found.missing),
            "intervals": {name: list(edges) for name, edges in intervals.items()},
            "resamples": self.intervals,
            "reference": len(self.judge.reference or ()),
            "width": width,
        }

    def _kept(self, method: Method, seed: int) -> KeptPictures | None:
        if self.keep is None:
            return None
        return KeptPictures.of(self.keep, method.name, seed if len(self.seeds) > 1 else None, self.teacher)

    def _shown(self, opened: Opened, seed: int) -> list[list[int]]:
        """Tokens for the grid: the same conditions and draws for every method."""
        raw = self.shown_conditions()
        drawing = Drawing(
            teacher=self.teacher,
            seed=seed,
            phase="showcase",
            device=self.device,
            batch_size=min(self.batch_size, len(raw)),
            block=len(raw),
        )
        with inference(opened.network):
            tokens: list[list[int]] = drawing.draw(raw, opened.draw, opened.network).tokens.tolist()
        return tokens

    def shown_conditions(self) -> list[Any]:
        """The conditions of the grid, equal ones together."""
        chosen = self.conditions.balanced(self.teacher.conditioning, SHOWN)
        return sorted(chosen, key=lambda raw: [repr(each) for each in chosen].index(repr(raw)))

    def _advance(self, method: Method, count: int, done: int, found: bool) -> None:
        self._done += method.steps * count
        self._found += method.steps * count * found
        note = f"{method.name}: {done} of {self.protocol.samples}"
        self._progress.advance(self._done, {}, note, found=self._found)


def _plain(facts: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(facts, default=str))


ENOUGH = 20
"""Samples for each feature from which on a distance is hardly larger for being measured on few of them."""

COUNTS_DIFFER = "Rows differ in n: distances such as FID grow when there are fewer samples."

Announce = Callable[[str, int, int], None]
"""Receives the name of a row, how many of its samples are drawn, and how many will be."""


def _silent(row: str, done: int, total: int) -> None:
    pass


@attrs.define(kw_only=True, eq=False)
class Evaluator:
    """Draws samples and has them judged; every number repeats exactly.

    Random numbers depend on the seed and the sample's position alone, so all rows share them, and an
    evaluation on the way disturbs nothing. Networks are used in eval mode and get their modes back.

    Attributes:
        teacher: Encodes conditions and decodes tokens.
        conditions: Gives the conditions, evenly spread.
        judge: Computes the numbers of samples: ``judge(samples)``.
        sampler: Multi-step sampler of the teacher's rows.
        guidance: Its guidance.
        samplings: The teacher's rows by name; when empty, its rows are step counts of sampler and guidance.
        settings: Sample counts and batch size; where null, the plan's count rules.
        seed: Seed of the draws.
        device: Where networks are and samples are drawn.
        progress: Told after each batch.
    """

    teacher: Teacher
    conditions: Conditions
    judge: Judge
    sampler: Sampler
    guidance: Guidance
    samplings: tuple[TeacherSampling, ...] = ()
    settings: Evaluate = attrs.field(factory=Evaluate)
    seed: int = 0
    device: torch.device = attrs.field(default=torch.device("cpu"), converter=torch.device)
    progress: Announce = _silent

    @classmethod
    def resolve(
        cls,
        teacher: Teacher,
        plan: EvaluationPlan,
        registry: Loader,
        *,
        conditions: Conditions,
        settings: Evaluate,
        seed: int = 0,
        device: torch.device,
        sampler: Sampler | None = None,
    ) -> "Evaluator":
        """Build what the plan names.

        Args:
            teacher: Whose plan it is.
            plan: What to compute, by registry names.
            registry: Loads them.
            conditions: Source of the conditions to sample for.
            settings: Sample counts and batch size.
            seed: Seed of the draws.
            device: Where networks are.
            sampler: Used instead of the plan's.

        Raises:
            UsageError: if data, extractor, sampler, guidance or a sampling are unknown. A metric is only
                noted.
        """
        names = dict.fromkeys(settings.samplings)
        return cls(
            teacher=teacher,
            conditions=conditions,
            judge=Judge.resolve(teacher, plan, registry, batch_size=settings.batch_size),
            sampler=sampler or built(registry, "sampler", plan.sampler),
            guidance=built(registry, "guidance", plan.guidance),
            samplings=tuple(TeacherSampling.named(teacher, name, registry) for name in names),
            settings=settings,
            seed=seed,
            device=device,
        )

    def generator_row(
        self, generator: Generator, name: str = "generator, 1 step", samples: int | None = None
    ) -> Row:
        """Judge one-step samples.

        Args:
            generator: On ``device``.
            name: Name of the row.
            samples: How many; None takes the protocol's number.
        """

        def draw(c: Condition, draws: Draws) -> Sampled:
            return Sampled(tokens=generator.sample(c, draws), passes=1)

        return self._row(name, "generator", 1, generator, draw, samples)

    @property
    def ways(self) -> tuple[TeacherSampling, ...]:
        """How the teacher is sampled, row by row."""
        if self.samplings:
            return self.samplings
        counts = self.judge.plan.steps if self.settings.steps is None else self.settings.steps
        return tuple(TeacherSampling(steps=n, sampler=self.sampler, guidance=self.guidance) for n in counts)

    def teacher_row(self, network: Backbone, way: TeacherSampling, samples: int | None = None) -> Row:
        """Judge samples that the teacher draws in many steps.

        Args:
            network: The teacher's network, on ``device``.
            way: Steps, sampler and guidance.
            samples: How many; None takes the protocol's number.
        """

        def draw(c: Condition, draws: Draws) -> Sampled:
            return way.draw(self.teacher, network, c, draws)

        row = self._row(way.title, "teacher", way.steps, network, draw, samples)
        return attrs.evolve(row, sampling=way.name)

    def floor_row(self) -> Row | None:
        """Judge another part of the real data, as a perfect model would be; None when the plan has none."""
        floor = self.judge.floor
        if floor is None:
            return None
        numbers = self.judge(floor)
        return Row(name="real data", kind="real", samples=len(floor), metrics=numbers)

    def table(self, generator: Generator | None, network: Backbone) -> Table:
        """The teacher in each of its ``ways``, the generator at one step, and the real floor.

        Args:
            generator: On ``device``; None for a table of the teacher alone.
            network: The teacher's network, on ``device``.
        """
        plan = self.judge.plan
        rows = [self.teacher_row(network, way) for way in self.ways]
        if generator is not None:
            rows.append(self.generator_row(generator))
        if (floor := self.floor_row()) is not None:
            rows.append(floor)
        return Table(
            rows=tuple(rows),
            shown=plan.shown,
            better=self.judge.better,
            protocol=self.protocol(generator),
            notes=(*size_notes(self.judge.width, rows, "--eval.samples"), *self.judge.notes),
        )

    def protocol(self, generator: Generator | None) -> dict[str, Any]:
        """What makes these numbers comparable with others, as plain data."""
        return {
            "samples": self._count(None),
            "seed": self.seed,
            "batch_size": self.settings.batch_size,
            "device": str(self.device),
            **self.judge.protocol(),
            **self._sampled(),
            **({} if generator is None else {"generator": dict(generator.sampling())}),
        }

    def _sampled(self) -> dict[str, Any]:
        if self.samplings:
            return {"samplings": [way.as_dict() for way in self.samplings]}
        return {"sampler": described(self.sampler), "guidance": described(self.guidance)}

    def _count(self, samples: int | None) -> int:
        return samples or self.settings.samples or self.judge.plan.samples

    def _row(
        self, name: str, kind: Kind, steps: int, network: nn.Module, draw: Draw, samples: int | None
    ) -> Row:
        count = self._count(samples)
        raw = self.conditions.balanced(self.teacher.conditioning, count)
        drawing = Drawing(
            teacher=self.teacher,
            seed=self.seed,
            phase="evaluation",
            device=self.device,
            batch_size=self.settings.batch_size,
        )
        parts, passes, seconds = [], 0, 0.0
        for batch in drawing.batches(raw, draw, network):
            conditions = raw[batch.start : batch.start + len(batch.tokens)]
            drawn = Samples(conditions=tuple(conditions), tokens=batch.tokens, images=batch.images)
            parts.append(self.judge.reduced(drawn))
            passes, seconds = max(passes, batch.passes), seconds + batch.seconds
            self.progress(name, batch.start + len(batch.tokens), count)
        return Row(
            name=name,
            kind=kind,
            steps=steps,
            passes=passes,
            samples=count,
            seconds=seconds,
            metrics=self.judge(joined_samples(parts)),
        )


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
