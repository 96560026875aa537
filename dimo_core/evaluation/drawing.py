"""Drawing many samples in batches, repeatably."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from dimo_core import conditions
from dimo_core.backbone import inference
from dimo_core.conditions import Condition
from dimo_core.draws import Draws
from dimo_core.evaluation.table import Kind
from dimo_core.sampler import Sampled, described
from dimo_core.teacher import Teacher, to_uint8
from dimo_core.tokens import Tokens

Draw = Callable[[Condition, Draws], Sampled]
"""One batch of samples for encoded conditions."""


@attrs.frozen(kw_only=True, eq=False)
class Drawn:
    """Samples on the CPU, and what they cost.

    Attributes:
        tokens: ``[N, L]``.
        images: Decoded images; None where the teacher decodes none.
        passes: Forward passes a sample took.
        seconds: Time to draw the tokens, decoding not counted.
    """

    tokens: Tokens
    images: UInt8[Tensor, "N C H W"] | None
    passes: int
    seconds: float


@attrs.frozen(kw_only=True, eq=False)
class DrawnBatch:
    """Consecutive samples on the CPU.

    Attributes:
        start: The first one's number.
        tokens: ``[B, L]``.
        images: Decoded images; None where the teacher decodes none.
        passes: Forward passes a sample took.
        seconds: Time to draw the tokens, decoding not counted.
        decoding: Time to decode the images.
    """

    start: int
    tokens: Tokens
    images: UInt8[Tensor, "B C H W"] | None
    passes: int
    seconds: float
    decoding: float = 0.0


@attrs.frozen(kw_only=True, eq=False)
class Drawing:
    """How samples are drawn: sample i takes its random numbers from row i % block of block i // block.

    So sample i is the same for any number of samples and, up to rounding, for any batch size.

    Attributes:
        teacher: Encodes conditions and decodes tokens.
        seed: Seed of the draws.
        phase: Their purpose; other purposes draw other numbers.
        device: Where the networks are.
        batch_size: Samples drawn at a time.
        block: Samples whose numbers are drawn together; batches never cross a block.
    """

    teacher: Teacher
    seed: int
    phase: str
    device: torch.device = attrs.field(default=torch.device("cpu"), converter=torch.device)
    batch_size: int
    block: int = attrs.field(default=attrs.Factory(lambda self: self.batch_size, takes_self=True))

    def draw(
        self,
        raw: Sequence[Any],
        draw: Draw,
        *networks: nn.Module,
        progress: Callable[[int], None] = lambda done: None,
    ) -> Drawn:
        """One sample for each raw condition.

        Args:
            raw: The conditions.
            draw: Draws a batch.
            networks: What ``draw`` uses; in eval mode meanwhile, and in their old modes again afterwards.
            progress: Told the number of samples after each batch.
        """
        batches = []
        for batch in self.batches(raw, draw, *networks):
            batches.append(batch)
            progress(batch.start + len(batch.tokens))
        return joined(batches)

    def batches(
        self, raw: Sequence[Any], draw: Draw, *networks: nn.Module, done: int = 0
    ) -> Iterator[DrawnBatch]:
        """The same, batch by batch, so that not all of it has to be in memory.

        Args:
            raw: The conditions.
            draw: Draws a batch.
            networks: As for ``draw``.
            done: Batches at the beginning that are left out.
        """
        for place, start in enumerate(self.starts(len(raw))[done:]):
            with inference(*networks):
                c, draws = self._batch(raw, start)
                if place == 0 and self.device.type != "cpu":
                    self._images(draw(c, draws).tokens, c)  # kernels load on first use: no part of the work
                began = self._clock()
                sampled = draw(c, draws)
                drawn = self._clock()
                images = self._images(sampled.tokens, c)
                decoded = self._clock()
            yield DrawnBatch(
                start=start,
                tokens=sampled.tokens.cpu(),
                images=images,
                passes=sampled.passes,
                seconds=drawn - began,
                decoding=decoded - drawn,
            )

    def decoded(self, raw: Sequence[Any], batch: DrawnBatch) -> DrawnBatch:
        """A batch with its pictures, which are decoded anew; as it is where the teacher decodes none."""
        c, _ = self._batch(raw, batch.start)
        with torch.no_grad():
            return attrs.evolve(batch, images=self._images(batch.tokens.to(self.device), c))

    def starts(self, count: int) -> list[int]:
        """The first sample of each batch, when there are ``count`` samples."""
        blocks = range(0, count, self.block)
        return [i for b in blocks for i in range(b, min(b + self.block, count), self.batch_size)]

    def _batch(self, raw: Sequence[Any], start: int) -> tuple[Condition, Draws]:
        """The encoded conditions and the draws of the batch that begins at sample ``start``."""
        block, first = divmod(start, self.block)
        count = min(self.batch_size, self.block - first, len(raw) - start)
        draws = Draws(seed=self.seed, step=block, phase=self.phase, total=self.block, device=self.device)
        c = self.teacher.encode_conditions(list(raw[start : start + count]))
        return conditions.to(c, self.device), draws.slice(first, count)

    def _images(self, tokens: Tokens, c: Condition) -> UInt8[Tensor, "B C H W"] | None:
        if "decode" not in self.teacher.capabilities:
            return None
        return to_uint8(self.teacher.decode(tokens, c)).cpu()

    def _clock(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()


def joined(batches: Sequence[DrawnBatch]) -> Drawn:
    """Consecutive batches as one."""
    images = [batch.images for batch in batches if batch.images is not None]
    return Drawn(
        tokens=torch.cat([batch.tokens for batch in batches]),
        images=torch.cat(images) if images else None,
        passes=max(batch.passes for batch in batches),
        seconds=sum(batch.seconds for batch in batches),
    )


@attrs.frozen(kw_only=True, eq=False)
class Opened:
    """A method that is ready to draw.

    Attributes:
        draw: Draws a batch of tokens.
        network: What it uses, on the device.
    """

    draw: Draw
    network: nn.Module


@attrs.frozen(kw_only=True, eq=False)
class Method:
    """One row of a comparison.

    Attributes:
        name: As people read it.
        kind: ``teacher`` or ``generator``.
        series: What rows of one curve share.
        steps: Sampling steps.
        identity: What decides its samples, besides seed and conditions: plain data.
        open: Reads the weights; rows of one teacher share its network.
        sampling: Name of the teacher's sampling; empty for none.
        temperature: Sampling temperature of a generator, where it was chosen.
        drawn: How it draws, for readers of the numbers: sampler and guidance, or a generator's options.
    """

    name: str
    kind: Kind
    series: str
    steps: int
    identity: Mapping[str, Any]
    open: Callable[[], Opened]
    sampling: str = ""
    temperature: float | None = None
    drawn: Mapping[str, Any] = attrs.field(factory=dict)


def identity(teacher: Teacher) -> dict[str, Any]:
    """What tells a teacher from every other: its options, and the digests of its parts."""
    return {"teacher": described(teacher), "parts": dict(teacher.provenance())}
