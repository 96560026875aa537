"""Every random number of a run, as a pure function of (seed, step, phase, stream, global position).

Nothing is ever consumed from a shared generator, so a run needs no saved random state, repeats exactly,
and draws the same numbers on any number of processes. Rows of the *global* batch are drawn in blocks, each
from a seed of its own, and a process draws the blocks that its rows lie in: what it draws costs what its
rows cost, whatever the size of the global batch.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import attrs
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from dimo_core.device import transfer

BLOCK_NUMBERS, BLOCK_ROWS = 2**18, 64
"""What a block holds at most: numbers (1 MiB in fp32), and rows. Other limits draw other numbers."""


Found = TypeVar("Found")


def block_rows(*shape: int) -> int:
    """Rows of a block; they depend on the shape of a row alone, so every process divides alike."""
    return max(1, min(BLOCK_ROWS, BLOCK_NUMBERS // max(1, math.prod(shape))))


def stream_seed(*key: object) -> int:
    """A 63-bit seed from a key; distinct keys give independent streams."""
    text = "\x1f".join(map(repr, key)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


@attrs.frozen(kw_only=True)
class Draws:
    """The random numbers of one phase of one step.

    Attributes:
        seed: The seed of the run.
        step: The step that is being taken.
        phase: Name of the phase or purpose; different phases draw different numbers.
        total: Size of the global batch.
        start: First row of this process's micro-batch within the global batch.
        count: Rows of this micro-batch; default all of them.
        device: Where the numbers are made and live.
    """

    seed: int
    step: int = 0
    phase: str = ""
    total: int
    start: int = 0
    count: int = attrs.field(default=attrs.Factory(lambda self: self.total - self.start, takes_self=True))
    device: torch.device = attrs.field(default=torch.device("cpu"), converter=torch.device)
    _found: dict[tuple[object, ...], Any] = attrs.field(factory=dict, eq=False, repr=False)

    def once(self, key: tuple[object, ...], find: Callable[[], Found]) -> Found:
        """What ``find`` returns, found once for all slices of these draws.

        Args:
            key: Names it; what it depends on, besides the global batch.
            find: Draws it, from ``whole()``.
        """
        key = (self.seed, self.step, self.phase, *key)
        if key not in self._found:
            self._found[key] = find()
        found: Found = self._found[key]
        return found

    def slice(self, start: int, count: int) -> "Draws":
        """The draws of ``count`` rows of the global batch, from ``start``."""
        return attrs.evolve(self, start=start, count=count)

    def whole(self) -> "Draws":
        """The draws of the global batch."""
        return attrs.evolve(self, start=0, count=self.total)

    def host(self) -> "Draws":
        """The same rows, drawn on the CPU: what decides shapes must not make an accelerator wait."""
        return attrs.evolve(self, device=torch.device("cpu"))

    def _drawn(
        self, stream: str, shape: tuple[int, ...], dtype: torch.dtype, fill: Callable[..., Tensor]
    ) -> Shaped[Tensor, "b ..."]:
        """This batch's rows, of the whole blocks that they lie in; on the meta device nothing is filled."""
        size, end = block_rows(*shape), self.start + self.count
        first = self.start // size
        blocks = torch.empty(-(-end // size) - first, size, *shape, dtype=dtype, device=self.device)
        if self.device.type != "meta":
            generator = torch.Generator(self.device)
            for place, block in enumerate(blocks, first):
                generator.manual_seed(stream_seed(self.seed, self.step, self.phase, stream, place))
                fill(block, generator=generator)
        return blocks.flatten(0, 1)[self.start - first * size : end - first * size]

    def uniform(self, stream: str, *shape: int) -> Float[Tensor, "b ..."]:
        """Numbers uniform on [0, 1), ``[count, *shape]``."""
        return self._drawn(stream, shape, torch.get_default_dtype(), Tensor.uniform_)

    def normal(self, stream: str, *shape: int) -> Float[Tensor, "b ..."]:
        """Standard normal numbers, ``[count, *shape]``."""
        return self._drawn(stream, shape, torch.get_default_dtype(), Tensor.normal_)

    def integers(self, stream: str, high: int, *shape: int) -> Int[Tensor, "b ..."]:
        """Integers uniform on 0 .. high - 1, ``[count, *shape]``."""
        return self._drawn(stream, shape, torch.long, lambda block, **key: block.random_(0, high, **key))

    def gumbel(self, stream: str, *shape: int) -> Float[Tensor, "b ..."]:
        """Standard Gumbel numbers, ``[count, *shape]``."""
        tiny = torch.finfo(torch.float32).tiny
        return -(-self.uniform(stream, *shape).clamp_min(tiny).log()).clamp_min(tiny).log()

    def subset(
        self,
        stream: str,
        length: int,
        sizes: Int[Tensor, " b"],
        among: Bool[Tensor, "b {length}"] | None = None,
    ) -> Bool[Tensor, "b {length}"]:
        """A uniformly random subset of 0 .. length - 1 for each row, of exactly the given sizes.

        Args:
            stream: Which numbers.
            length: Of a row.
            sizes: Of the subsets; at most what there is among.
            among: What it is chosen from; None for all.
        """
        return smallest(self.uniform(stream, length), sizes, among)


def smallest(
    score: Float[Tensor, "b L"], sizes: Int[Tensor, " b"], among: Bool[Tensor, "b L"] | None = None
) -> Bool[Tensor, "b L"]:
    """Where the smallest numbers of each row are, of exactly the given sizes.

    Args:
        score: The numbers.
        sizes: How many of each row; at most what there is among.
        among: What is chosen from; None for all.
    """
    score = score if among is None else score.masked_fill(~transfer(among, score.device), torch.inf)
    # Stable: how ties are ordered must not depend on how many rows are sorted together.
    rank = score.argsort(dim=1, stable=True).argsort(dim=1)
    return rank < transfer(sizes, rank.device)[:, None]


@attrs.frozen(kw_only=True)
class PickedDraws(Draws):
    """The random numbers of some rows of a batch, wherever they lie in it.

    Attributes:
        of: The draws of the batch.
        rows: Which of its rows.
    """

    of: Draws
    rows: tuple[int, ...]

    @classmethod
    def pick(cls, draws: Draws, rows: tuple[int, ...]) -> "PickedDraws":
        """Those of some rows of ``draws``."""
        return cls(
            seed=draws.seed,
            step=draws.step,
            phase=draws.phase,
            total=len(rows),
            device=draws.device,
            of=draws,
            rows=rows,
        )

    def _drawn(
        self, stream: str, shape: tuple[int, ...], dtype: torch.dtype, fill: Callable[..., Tensor]
    ) -> Shaped[Tensor, "b ..."]:
        whole = attrs.evolve(self.of, step=self.step, phase=self.phase)
        return whole._drawn(stream, shape, dtype, fill)[list(self.rows)]


@attrs.frozen(kw_only=True)
class RecordedDraws(Draws):
    """Draws that were written down, by stream name: for golden tests and for replaying a figure.

    Attributes:
        values: Tensors of the global batch by stream name. A ``subset`` stream holds the boolean subset.
    """

    values: Mapping[str, Tensor]

    def _recorded(self, stream: str, *_: Any, **__: Any) -> Tensor:
        if stream not in self.values:
            raise KeyError(f"no recorded draw {stream!r}; recorded: {', '.join(sorted(self.values))}")
        return self.values[stream][self.start : self.start + self.count].to(self.device)

    uniform = normal = integers = gumbel = subset = _recorded


def categorical(logits: Float[Tensor, "*B V"], uniform: Float[Tensor, "*B"]) -> Int[Tensor, "*B"]:
    """Draw from softmax(logits) by inverse CDF, one uniform number for each token.

    The cumulative sum is taken in float32 at least, and codes of zero probability are never drawn.
    """
    p = logits.float().softmax(-1) if logits.dtype != torch.float64 else logits.softmax(-1)
    cdf = p.cumsum(-1)
    total = cdf[..., -1:]
    below = total * (1 - torch.finfo(cdf.dtype).eps / 2)  # the next smaller number, in an operation of ONNX
    u = torch.minimum(uniform.to(cdf.dtype)[..., None] * total, below)
    return (cdf <= u).sum(-1)


def permutation(seed: int, epoch: int, size: int, *key: object) -> list[int]:
    """The order of epoch ``epoch`` over ``size`` examples: a pure function of its arguments."""
    generator = torch.Generator().manual_seed(stream_seed("permutation", seed, epoch, *key))
    order: list[int] = torch.randperm(size, generator=generator).tolist()
    return order
