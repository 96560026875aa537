"""The random numbers of a sample as inputs: which streams a generator asks for, and draws that are given."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import attrs
import torch
from jaxtyping import Shaped
from torch import Tensor

from dimo_core.draws import Draws
from dimo_core.errors import UsageError

Kind = Literal["uniform", "normal", "integers"]


@attrs.frozen(kw_only=True)
class Stream:
    """One tensor of random numbers ``[B, *shape]``; every other draw is computed from such.

    Attributes:
        name: What the input is called.
        phase: The phase of the draws, as ``Draws`` has it.
        stream: The stream within the phase.
        kind: ``uniform`` on [0, 1), standard ``normal``, or ``integers`` uniform on 0 .. high - 1.
        shape: Of one sample.
        high: Of integers; 0 otherwise.
    """

    name: str
    phase: str
    stream: str
    kind: Kind
    shape: tuple[int, ...]
    high: int = 0


@attrs.frozen(kw_only=True)
class HeardDraws(Draws):
    """Draws that note what they are asked for.

    Attributes:
        of: Where the numbers come from; as many rows as these.
        streams: What was asked for, by name, in order.
        values: The numbers of all rows, by name.
    """

    of: Draws
    streams: dict[str, Stream] = attrs.field(factory=dict, eq=False)
    values: dict[str, Tensor] = attrs.field(factory=dict, eq=False)

    @classmethod
    def listening(cls, of: Draws) -> "HeardDraws":
        """The same draws; what is taken from them is noted."""
        return cls(seed=of.seed, step=of.step, phase=of.phase, total=of.count, device=of.device, of=of)

    def _drawn(
        self, stream: str, shape: tuple[int, ...], dtype: torch.dtype, fill: Callable[..., Tensor]
    ) -> Shaped[Tensor, "b ..."]:
        kinds: Mapping[Any, Kind] = {Tensor.uniform_: "uniform", Tensor.normal_: "normal"}
        if fill not in kinds:
            raise UsageError(f"the draw {stream!r} is none of those that a graph can have as an input")
        return self._heard(kinds[fill], stream, shape, 0)

    def integers(self, stream: str, high: int, *shape: int) -> Shaped[Tensor, "b ..."]:
        """As of ``Draws``."""
        return self._heard("integers", stream, shape, high)

    def _heard(self, kind: Kind, stream: str, shape: tuple[int, ...], high: int) -> Tensor:
        own = self.phase.removeprefix(self.of.phase).strip("/")
        name = ".".join(filter(None, (own.replace("/", "."), stream)))
        found = Stream(name=name, phase=self.phase, stream=stream, kind=kind, shape=shape, high=high)
        if self.streams.setdefault(name, found) != found:
            raise UsageError(f"the draw {name!r} is asked for twice, as {found} and {self.streams[name]}")
        if name not in self.values:
            self.values[name] = self._made(found)
        return self.values[name][self.start : self.start + self.count]

    def _made(self, stream: Stream) -> Tensor:
        of = attrs.evolve(self.of, phase=stream.phase, step=self.step)
        if stream.kind == "integers":
            return of.integers(stream.stream, stream.high, *stream.shape)
        made: Tensor = getattr(of, stream.kind)(stream.stream, *stream.shape)
        return made


@attrs.frozen(kw_only=True)
class GivenDraws(HeardDraws):
    """Draws whose numbers are given: what ``values`` has by name, and nothing else."""

    def _made(self, stream: Stream) -> Tensor:
        raise UsageError(f"the draw {stream.name!r} was not asked for before, and is asked for now")
