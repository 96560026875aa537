"""Every random number of a run, as a pure function of (seed, step, phase, stream, global position).

Nothing is ever consumed from a shared generator, so a run needs no saved random state, repeats exactly,
and draws the same numbers on any number of processes: each draw is made for the *global* batch and
sliced.
"""

import hashlib
from collections.abc import Mapping

import attrs
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dimo_core.device import transfer


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

    def slice(self, start: int, count: int) -> "Draws":
        """The draws of ``count`` rows of the global batch, from ``start``."""
        return attrs.evolve(self, start=start, count=count)

    def whole(self) -> "Draws":
        """The draws of the global batch."""
        return attrs.evolve(self, start=0, count=self.total)

    def host(self) -> "Draws":
        """The same rows, drawn on the CPU: what decides shapes must not make an accelerator wait."""
        return attrs.evolve(self, device=torch.device("cpu"))

    def _generator(self, stream: str) -> torch.Generator:
        device = "cpu" if self.device.type == "meta" else self.device
        return torch.Generator(device).manual_seed(stream_seed(self.seed, self.step, self.phase, stream))

    def _rows(self, full: Tensor) -> Tensor:
        return full[self.start : self.start + self.count]

    def uniform(self, stream: str, *shape: int) -> Float[Tensor, "b ..."]:
        """Numbers uniform on [0, 1), ``[count, *shape]``."""
        if self.device.type == "meta":
            return torch.empty(self.count, *shape, device="meta")
        generator = self._generator(stream)
        return self._rows(torch.rand(self.total, *shape, generator=generator, device=self.device))

    def normal(self, stream: str, *shape: int) -> Float[Tensor, "b ..."]:
        """Standard normal numbers, ``[count, *shape]``."""
        if self.device.type == "meta":
            return torch.empty(self.count, *shape, device="meta")
        generator = self._generator(stream)
        return self._rows(torch.randn(self.total, *shape, generator=generator, device=self.device))

    def integers(self, stream: str, high: int, *shape: int) -> Int[Tensor, "b ..."]:
        """Integers uniform on 0 .. high - 1, ``[count, *shape]``."""
        if self.device.type == "meta":
            return torch.empty(self.count, *shape, device="meta", dtype=torch.long)
        generator = self._generator(stream)
        return self._rows(torch.randint(high, (self.total, *shape), generator=generator, device=self.device))

    def gumbel(self, stream: str, *shape: int) -> Float[Tensor, "b ..."]:
        """Standard Gumbel numbers, ``[count, *shape]``."""
        tiny = torch.finfo(torch.float32).tiny
        return -(-self.uniform(stream, *shape).clamp_min(tiny).log()).clamp_min(tiny).log()

    def subset(self, stream: str, length: int, sizes: Int[Tensor, " b"]) -> Bool[Tensor, "b {length}"]:
        """A uniformly random subset of 0 .. length - 1 for each row, of exactly the given sizes."""
        rank = self.uniform(stream, length).argsort(1).argsort(1)
        return rank < transfer(sizes, rank.device)[:, None]


@attrs.frozen(kw_only=True)
class RecordedDraws(Draws):
    """Draws that were written down, by stream name: for golden tests and for replaying a figure.

    Attributes:
        values: Tensors of the global batch by stream name. A ``subset`` stream holds the boolean subset.
    """

    values: Mapping[str, Tensor]

    def _value(self, stream: str) -> Tensor:
        if stream not in self.values:
            raise KeyError(f"no recorded draw {stream!r}; recorded: {', '.join(sorted(self.values))}")
        return self._rows(self.values[stream]).to(self.device)

    def uniform(self, stream: str, *shape: int) -> Float[Tensor, "b ..."]:
        """The recorded numbers."""
        return self._value(stream)

    def normal(self, stream: str, *shape: int) -> Float[Tensor, "b ..."]:
        """The recorded numbers."""
        return self._value(stream)

    def integers(self, stream: str, high: int, *shape: int) -> Int[Tensor, "b ..."]:
        """The recorded integers."""
        return self._value(stream)

    def gumbel(self, stream: str, *shape: int) -> Float[Tensor, "b ..."]:
        """The recorded numbers."""
        return self._value(stream)

    def subset(self, stream: str, length: int, sizes: Int[Tensor, " b"]) -> Bool[Tensor, "b {length}"]:
        """The recorded subset."""
        return self._value(stream)


def categorical(logits: Float[Tensor, "*B V"], uniform: Float[Tensor, "*B"]) -> Int[Tensor, "*B"]:
    """Draw from softmax(logits) by inverse CDF, one uniform number for each token.

    The cumulative sum is taken in float32 at least, and codes of zero probability are never drawn.
    """
    p = logits.float().softmax(-1) if logits.dtype != torch.float64 else logits.softmax(-1)
    cdf = p.cumsum(-1)
    total = cdf[..., -1:]
    u = torch.minimum(
        uniform.to(cdf.dtype)[..., None] * total, torch.nextafter(total, torch.zeros_like(total))
    )
    return (cdf <= u).sum(-1)


def permutation(seed: int, epoch: int, size: int, *key: object) -> list[int]:
    """The order of epoch ``epoch`` over ``size`` examples: a pure function of its arguments."""
    generator = torch.Generator().manual_seed(stream_seed("permutation", seed, epoch, *key))
    order: list[int] = torch.randperm(size, generator=generator).tolist()
    return order
