"""Where conditions and training data come from: ``Conditions`` and ``Data``, and what data are."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
from jaxtyping import Float
from torch import Tensor

from dimo_core.conditions import Conditioning, from_text
from dimo_core.errors import UsageError
from dimo_core.examples import Examples
from dimo_core.streams import Picture, PictureStream, TextStream

if TYPE_CHECKING:
    from dimo_core.draws import Draws
    from dimo_core.suggestions import EvaluationPlan

__all__ = [
    "ConditionStream",
    "Conditions",
    "Data",
    "Examples",
    "Picture",
    "PictureStream",
    "TextStream",
]


class ConditionStream(ABC):
    """An endless sequence of raw conditions, read by global position."""

    @abstractmethod
    def read(self, start: int, count: int) -> list[Any]:
        """The raw conditions at global positions start .. start + count - 1.

        A pure function of its arguments and of the seed with which the stream was opened, for any
        number of processes. The position is all that has to be remembered to resume.

        Raises:
            SourceError: when what could be read before cannot be read any more.
        """

    def record(self) -> Mapping[str, Any] | None:
        """Plain data, for JSON, that fix the stream together with options and seed; None for none.

        A run folder keeps them, and a resumed run hands them to ``Conditions.reopen``.
        """
        return None


class Conditions(ABC):
    """A source of raw conditions, c ~ D (labels, prompts); a frozen attrs class of its options."""

    @abstractmethod
    def open(self, conditioning: Conditioning, *, seed: int) -> ConditionStream:
        """Start reading.

        Args:
            conditioning: What the teacher takes; the source checks that it can deliver it.
            seed: The seed that fixes the order.

        Raises:
            UsageError: when the source is empty, or of another kind than the teacher takes.
        """

    def reopen(self, conditioning: Conditioning, record: Mapping[str, Any], *, seed: int) -> ConditionStream:
        """Read what the stream reads whose ``record`` this is, whatever has come or gone since.

        Args:
            conditioning: As for ``open``.
            record: What ``ConditionStream.record`` gave.
            seed: As for ``open``.

        Raises:
            UsageError: when the source is of another kind than the teacher takes, or the record of another.
        """
        return self.open(conditioning, seed=seed)

    @abstractmethod
    def balanced(self, conditioning: Conditioning, count: int) -> list[Any]:
        """A fixed, evenly spread list of ``count`` conditions, for evaluation and grids."""

    def parse(self, conditioning: Conditioning, given: Sequence[str]) -> list[Any]:
        """Raw conditions from text: the words of ``dimo sample --conditions ...``, what ``describe`` gave.

        Class names or indices become labels, and all else is taken as it is. A source of a kind of its own
        overrides this with the inverse of ``Teacher.describe``.

        Args:
            conditioning: As for ``open``.
            given: One text a condition.

        Raises:
            UsageError: for a text that stands for no condition.
        """
        return from_text(conditioning, given)


class Data(ABC):
    """Images or texts with conditions; a frozen attrs class of its options."""

    incidental: ClassVar[frozenset[str]] = frozenset()
    """Options that do not change what the pictures are, such as a number of threads."""

    @abstractmethod
    def splits(self) -> Sequence[str]:
        """Names of the parts that ``load`` knows."""

    @abstractmethod
    def load(self, split: str) -> Examples:
        """Read one part.

        Raises:
            UsageError: for an unknown split, or when there is nothing to read.
        """

    @property
    def streams(self) -> bool:
        """Whether ``open`` can be called; training then reads a token cache and never calls ``load``."""
        return False

    def open(self, split: str) -> PictureStream | TextStream:
        """Start reading one part that need not fit in memory.

        Raises:
            UsageError: for an unknown split, or when there is nothing to read.
        """
        raise UsageError(f"data {type(self).__name__} are read into memory, not streamed.")

    def identity(self) -> Mapping[str, Any]:
        """What decides what the pictures are, as plain data; token caches of others are refused."""
        cls = type(self)
        names = [field.name for field in attrs.fields(cls)] if attrs.has(cls) else []
        options = {name: getattr(self, name) for name in names if name not in self.incidental}
        return {"class": f"{cls.__module__}.{cls.__qualname__}", **options}

    @property
    def augments(self) -> bool:
        """Whether ``augment`` changes anything; if not, images are encoded once."""
        return False

    def augment(self, images: Float[Tensor, "B C H W"], draws: "Draws") -> Float[Tensor, "B C H W"]:
        """Randomly changed copies of training images in [0, 1], each by its own row of ``draws``."""
        return images

    def evaluation(self) -> "EvaluationPlan | None":
        """How samples of a teacher that was pretrained on this data are judged; None when unknown."""
        return None
