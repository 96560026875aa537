"""Rows: many samples of one way of drawing, in batches and repeatably, and their numbers."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from dimo_core import conditions
from dimo_core.backbone import Backbone, drawable, inference
from dimo_core.conditions import Condition
from dimo_core.device import arithmetic
from dimo_core.draws import Draws
from dimo_core.engine.ranks import Ranks
from dimo_core.evaluation.judge import Judge
from dimo_core.evaluation.kept_samples import KeptSamples
from dimo_core.evaluation.protocols import BLOCK
from dimo_core.evaluation.store import Drawn, Store
from dimo_core.evaluation.table import Origin
from dimo_core.generator import Generator
from dimo_core.metric import Samples
from dimo_core.sampler import Sampled, TeacherSampling, described
from dimo_core.settings import Precision
from dimo_core.sources import Conditions
from dimo_core.teacher import Teacher, to_uint8
from dimo_core.tokens import Tokens

SITES = 2**15
"""The most tokens that are drawn at a time, unless told: 64 samples of 512 tokens, 8 of 4096."""


@attrs.frozen(kw_only=True)
class Shard:
    """Which share of the batches of a row a process draws.

    Attributes:
        index: From 1 up.
        of: How many shards there are.
    """

    index: int = 1
    of: int = 1

    @classmethod
    def mine(cls, ranks: Ranks) -> "Shard":
        """That of this process."""
        return cls(index=ranks.rank + 1, of=ranks.size)

    def among(self, count: int) -> range:
        """Its batches, by number, of so many."""
        return range((self.index - 1) * count // self.of, self.index * count // self.of)


@attrs.frozen(kw_only=True, eq=False)
class Opened:
    """What is ready to draw.

    Attributes:
        draw: Draws one batch of samples for encoded conditions.
        network: What it uses, on the device; in eval mode meanwhile, and in its old mode again afterwards.
    """

    draw: Callable[[Condition, Draws], Sampled]
    network: nn.Module

    @classmethod
    def teacher(cls, teacher: Teacher, network: Backbone, way: TeacherSampling) -> "Opened":
        """A teacher that is sampled in many steps."""
        return cls(draw=partial(way.draw, teacher, network), network=network)

    @classmethod
    def generator(cls, generator: Generator) -> "Opened":
        """A generator that is sampled in one, or in a few."""

        def draw(c: Condition, draws: Draws) -> Sampled:
            return Sampled(tokens=generator.sample(c, draws), passes=generator.passes)

        return cls(draw=draw, network=generator)


@attrs.frozen(kw_only=True)
class Method(Origin):
    """A teacher or generator that draws a row.

    Attributes:
        open: Reads the weights; rows of one teacher share its network.
        identity: What decides its samples, besides seed and conditions: plain data.
    """

    open: Callable[[], Opened]
    identity: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True, eq=False)
class Drawing:
    """How samples are drawn: sample i takes its random numbers from row i % block of block i // block.

    So sample i is the same for any number of samples and, up to rounding, for any batch size. What is
    finished already is read; the rest is drawn, looked at and kept.

    Attributes:
        teacher: Encodes conditions and decodes tokens.
        seed: Seed of the draws.
        phase: Their purpose; other purposes draw other numbers.
        device: Where the networks are.
        precision: How they compute when they draw; images are decoded in fp32.
        batch_size: Samples drawn at a time.
        block: Samples whose numbers are drawn together; batches never cross a block.
        onlooker: Looks at the images of a batch before they go; None keeps them in memory.
        store: The finished batches; None for none.
        request: What was asked for; batches of another request are not used.
        kept: Where the samples themselves are kept; None for nowhere.
        machine: What seconds depend on here.
    """

    teacher: Teacher
    seed: int
    phase: str
    device: torch.device = attrs.field(default=torch.device("cpu"), converter=torch.device)
    precision: Precision = "fp32"
    batch_size: int
    block: int
    onlooker: Judge | None = None
    store: Store | None = None
    request: Mapping[str, Any] = attrs.field(factory=dict)
    kept: KeptSamples | None = None
    machine: Mapping[str, str] = attrs.field(factory=dict)

    def draw(self, raw: Sequence[Any], opened: Opened) -> Drawn:
        """One sample for each raw condition, all in memory."""
        return Drawn.joined(list(self.batches(raw, opened)))

    def batches(self, raw: Sequence[Any], opened: Opened, shard: Shard = Shard()) -> Iterator[Drawn]:
        """The same, batch by batch.

        Args:
            raw: The condition of each sample.
            opened: Draws them.
            shard: Which batches; the others are left to other processes.
        """
        spans, first = self.spans(len(raw)), True
        for place in shard.among(len(spans)):
            span = spans[place]
            given = tuple(raw[span.start : span.stop])
            if (batch := self._found(span, given)) is None:
                batch, first = self._seen(self._drawn(span, given, opened, first)), False
            yield batch

    def spans(self, count: int) -> list[range]:
        """The samples of each batch, by number, when there are ``count`` samples."""
        blocks = range(0, count, self.block)
        return [
            range(i, min(i + self.batch_size, b + self.block, count))
            for b in blocks
            for i in range(b, min(b + self.block, count), self.batch_size)
        ]

    def _drawn(self, span: range, raw: tuple[Any, ...], opened: Opened, first: bool) -> Drawn:
        """Draw a batch, the first one after a sample of it: kernels load on first use, which is no work."""
        place, row = divmod(span.start, self.block)
        draws = Draws(seed=self.seed, step=place, phase=self.phase, total=self.block, device=self.device)
        draws = draws.slice(row, len(span))
        with inference(opened.network):
            c = self._encoded(raw)
            if first and self.device.type != "cpu":
                one = conditions.index(c, slice(1))
                self._images(self._sampled(one, draws.slice(row, 1), opened).tokens, one)
            began = self._clock()
            sampled = self._sampled(c, draws, opened)
            drawn = self._clock()
            images = self._images(sampled.tokens, c)
            decoded = self._clock()
            counted = self.teacher.tokens.counted(sampled.tokens, c)
        return Drawn(
            start=span.start,
            samples=Samples(
                conditions=raw,
                tokens=sampled.tokens.cpu(),
                counted=None if counted is None else counted.cpu(),
                calls=sampled.each().cpu(),
                images=images,
            ),
            passes=sampled.passes,
            seconds=drawn - began,
            decoding=decoded - drawn,
            machine=self.machine,
        )

    def _sampled(self, c: Condition, draws: Draws, opened: Opened) -> Sampled:
        with drawable(opened.network), arithmetic(self.precision, self.device):
            return opened.draw(c, draws)

    def _found(self, span: range, raw: tuple[Any, ...]) -> Drawn | None:
        """A finished batch; its images are decoded anew where something wants them.

        That is an onlooker, the folder of kept samples, or what had no weights when it was drawn.
        """
        batch = None if self.store is None else self.store.batch(self.request, span.start, raw)
        if batch is None:
            return None
        unkept = self.kept is not None and not self.kept.holds(batch)
        decodes, onlooker = "decode" in self.teacher.capabilities, self.onlooker
        unseen = decodes and onlooker is not None and onlooker.lacks(batch.samples)
        if not (unkept or unseen or (onlooker is not None and onlooker.keeps_images)):
            return batch
        with torch.no_grad():
            images = self._images(batch.tokens.to(self.device), self._encoded(raw))
        batch = attrs.evolve(batch, samples=attrs.evolve(batch.samples, images=images))
        return self._seen(batch, keep=unkept, store=unseen or unkept)

    def _seen(self, batch: Drawn, *, keep: bool = True, store: bool = True) -> Drawn:
        """Keep a batch with images, and give what is remembered of it."""
        if self.kept is not None and keep:
            batch = attrs.evolve(batch, kept=self.kept.keep(batch))
        if self.onlooker is not None:
            batch = attrs.evolve(batch, samples=self.onlooker.reduced(batch.samples))
        if self.store is not None and store:
            self.store.keep(self.request, batch)
        return batch

    def _encoded(self, raw: Sequence[Any]) -> Condition:
        return conditions.to(self.teacher.encode_conditions(list(raw)), self.device)

    def _images(self, tokens: Tokens, c: Condition) -> UInt8[Tensor, "B C H W"] | None:
        if "decode" not in self.teacher.capabilities:
            return None
        return to_uint8(self.teacher.decode(tokens, c)).cpu()

    def _clock(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()


@attrs.define(kw_only=True, eq=False)
class Rows:
    """Draws samples and has them judged; every number repeats exactly.

    Random numbers depend on the seed and the sample's position alone, so all rows share them, and an
    evaluation on the way disturbs nothing.

    Attributes:
        teacher: Encodes conditions and decodes tokens; on ``device``.
        conditions: Gives the conditions, evenly spread.
        judge: Computes the numbers.
        device: Where networks are and samples are drawn.
        precision: How they compute.
        batch_size: Samples drawn at a time; it changes no sample.
    """

    teacher: Teacher
    conditions: Conditions
    judge: Judge
    device: torch.device = attrs.field(default=torch.device("cpu"), converter=torch.device)
    precision: Precision = "fp32"
    batch_size: int

    def raw(self, count: int | None = None) -> list[Any]:
        """The condition of each of so many samples, or of those of a row."""
        return list(self.conditions.balanced(self.teacher.conditioning, count or self.judge.plan.samples))

    def drawing(self, seed: int, phase: str = "evaluation", block: int = BLOCK, **kept: Any) -> Drawing:
        """How samples are drawn; further arguments are those of ``Drawing``."""
        own = {name: getattr(self, name) for name in ("teacher", "device", "precision", "batch_size")}
        return Drawing(**own, seed=seed, phase=phase, block=block, **kept)

    def numbers(self, batches: Sequence[Drawn], network: nn.Module) -> dict[str, Any]:
        """What the samples of a row cost, which a network drew, and what they are worth: plain data."""
        drawn, machines = Drawn.joined(batches), dict.fromkeys(tuple(b.machine.items()) for b in batches)
        return {
            "passes": drawn.passes,
            "seconds": drawn.seconds,
            "decoding": drawn.decoding,
            "parameters": sum(p.numel() for p in network.parameters()),
            "machines": [dict(pairs) for pairs in machines],
            **self.judged(drawn.samples),
        }

    def judged(self, samples: Samples) -> dict[str, Any]:
        """The numbers of some samples, as plain data: metrics, and what is missing of them."""
        return self.judge.judged(samples)


def identity(teacher: Teacher) -> dict[str, Any]:
    """What tells a teacher from every other: its options, and the digests of its parts."""
    return {"teacher": described(teacher), "parts": dict(teacher.provenance())}
