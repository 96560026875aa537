"""Batches by global position: encoded conditions, or tokens of examples."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import attrs
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dimo_core import conditions
from dimo_core.data.token_cache import EncodedExamples
from dimo_core.device import transfer
from dimo_core.draws import Draws, permutation
from dimo_core.objective import Batch
from dimo_core.sources import ConditionStream, Data, Examples
from dimo_core.teacher import Teacher
from dimo_core.tokens import Tokens


class Feed(ABC):
    """Batches by position.

    Attributes:
        teacher: Whose conditions they have.
    """

    teacher: Teacher

    @abstractmethod
    def read(self, start: int, count: int) -> Batch:
        """What lies at positions start .. start + count - 1."""

    def valid(self, start: int, count: int) -> Bool[Tensor, "N L"] | None:
        """The sites that the conditions at these positions do not give, on the CPU; None for all sites."""
        space = self.teacher.tokens
        given = space.given(self.read(start, count).conditions) if space.gives else None
        return None if given is None else given.valid.cpu()


@attrs.frozen(kw_only=True, eq=False)
class ConditionFeed(Feed):
    """Conditions of a stream, encoded by the teacher.

    Attributes:
        stream: Raw conditions by position.
        teacher: Encodes them.
        device: Where they go.
    """

    stream: ConditionStream
    teacher: Teacher
    device: torch.device

    def read(self, start: int, count: int) -> Batch:
        """The conditions at positions start .. start + count - 1."""
        c = self.teacher.encode_conditions(self.stream.read(start, count))
        return Batch(conditions=conditions.to(c, self.device))


class EpochOrder:
    """An endless sequence of epochs, each in a fresh order that depends on (seed, epoch) alone.

    Args:
        seed: Fixes the orders.
        count: Examples in an epoch.
    """

    def __init__(self, seed: int, count: int) -> None:
        self.seed, self.count = seed, count
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def rows(self, start: int, count: int) -> Int[Tensor, " B"]:
        """The examples at positions start .. start + count - 1."""
        parts = []
        while count > 0:
            epoch, place = divmod(start, self.count)
            if epoch != self._epoch:
                self._epoch, self._order = epoch, torch.tensor(permutation(self.seed, epoch, self.count))
            parts.append(self._order[place : place + count])
            start, count = start + len(parts[-1]), count - len(parts[-1])
        return torch.cat(parts)


@attrs.frozen(kw_only=True, eq=False)
class CachedFeed(Feed):
    """Examples that were encoded before, in the orders of ``EpochOrder``.

    Attributes:
        teacher: Encodes labels.
        examples: Tokens and labels.
        seed: Fixes the orders.
        device: Where batches go.
    """

    teacher: Teacher
    examples: EncodedExamples
    seed: int
    device: torch.device
    order: EpochOrder = attrs.field(
        init=False,
        default=attrs.Factory(lambda self: EpochOrder(self.seed, len(self.examples)), takes_self=True),
    )

    def read(self, start: int, count: int) -> Batch:
        """The examples at positions start .. start + count - 1 of the endless sequence of epochs."""
        rows = self.order.rows(start, count)
        c = self.teacher.encode_conditions(self.examples.labels[rows].tolist())
        tokens = transfer(self.examples.tokens[rows], self.device).long()
        return Batch(conditions=conditions.to(c, self.device), tokens=tokens, rows=rows)


class TokenFeed(Feed):
    """Examples as tokens, in a fresh order each epoch that depends on (seed, epoch) alone.

    They are made tokens of on the device, once, or, where the data augments images, anew for every batch.

    Args:
        teacher: Makes tokens of examples, and encodes their conditions.
        data: Augments images.
        examples: What to train on.
        seed: Fixes order and augmentation.
        device: Where tokens are made and batches go.

    Raises:
        UsageError: when the teacher makes no tokens of such examples.
    """

    def __init__(
        self, teacher: Teacher, data: Data, examples: Examples, *, seed: int, device: torch.device
    ) -> None:
        self.teacher, self.data, self.seed, self.device = teacher, data, seed, device
        self.examples, self.augments = examples, data.augments and examples.images is not None
        raw, kind = examples.conditions(), teacher.conditioning
        if kind.kind == "label":  # of a file, such as what `dimo sample` writes, they are names
            raw = [kind.label(each) if isinstance(each, str) else each for each in raw]
        self.conditions = conditions.to(teacher.encode_conditions(raw), "cpu")
        self.order = EpochOrder(seed, len(examples))
        self._cache = None if self.augments else torch.cat([*self._encoded()])

    def _encoded(self, chunk: int = 256) -> Iterator[Tokens]:
        for i in range(0, len(self.examples), chunk):
            rows = slice(i, i + chunk)
            c = conditions.to(conditions.index(self.conditions, rows), self.device)
            yield self.teacher.tokenize(self._moved(self.examples.part(rows)), c).cpu()

    def _moved(self, examples: Examples) -> Examples:
        if examples.images is None:
            return examples
        return attrs.evolve(examples, images=transfer(examples.images, self.device))

    def read(self, start: int, count: int) -> Batch:
        """The examples at positions start .. start + count - 1 of the endless sequence of epochs."""
        rows = self.order.rows(start, count)
        c = conditions.to(conditions.index(self.conditions, rows), self.device)
        if self._cache is not None:
            tokens = transfer(self._cache[rows], self.device)
        else:
            # Keyed by the position in the sequence: how a batch is divided changes no image.
            draws = Draws(seed=self.seed, phase="augment", total=start + count, start=start)
            images = self.data.augment(self.examples.pictures[rows] / 255, draws)
            tokens = self.teacher.encode(transfer(images, self.device), c)
        return Batch(conditions=c, tokens=tokens, rows=rows)
