"""Where conditions and training data come from: ``Conditions`` and ``Data``."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
from jaxtyping import Float, Int, UInt8
from torch import Tensor

if TYPE_CHECKING:
    from dimo_core.draws import Draws
    from dimo_core.teacher import Conditioning, EvaluationPlan


class ConditionStream(ABC):
    """An endless sequence of raw conditions, read by global position."""

    @abstractmethod
    def read(self, start: int, count: int) -> list[Any]:
        """The raw conditions at global positions start .. start + count - 1.

        A pure function of its arguments and of the seed with which the stream was opened, for any
        number of processes. The position is all that has to be remembered to resume.
        """


class Conditions(ABC):
    """A source of raw conditions, c ~ D (labels, prompts); a frozen attrs class of its options."""

    @abstractmethod
    def open(self, conditioning: "Conditioning", *, seed: int) -> ConditionStream:
        """Start reading.

        Args:
            conditioning: What the teacher takes; the source checks that it can deliver it.
            seed: The seed that fixes the order.

        Raises:
            UsageError: when the source is empty, or of another kind than the teacher takes.
        """

    @abstractmethod
    def balanced(self, conditioning: "Conditioning", count: int) -> list[Any]:
        """A fixed, evenly spread list of ``count`` conditions, for evaluation and grids."""


@attrs.frozen(kw_only=True, eq=False)
class Examples:
    """Images in memory with their labels.

    Attributes:
        images: ``uint8 [N, C, H, W]``.
        labels: Class index of each image.
        classes: Class names.
        details: Other per-image facts by name, such as the digit behind a parity label.
    """

    images: UInt8[Tensor, "N C H W"]
    labels: Int[Tensor, " N"]
    classes: tuple[str, ...]
    details: dict[str, Tensor] = attrs.field(factory=dict)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)


class Data(ABC):
    """Images with conditions; a frozen attrs class of its options."""

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
    def augments(self) -> bool:
        """Whether ``augment`` changes anything; if not, images are encoded once."""
        return False

    def augment(self, images: Float[Tensor, "B C H W"], draws: "Draws") -> Float[Tensor, "B C H W"]:
        """Randomly changed copies of training images in [0, 1], drawn anew for each batch."""
        return images

    def evaluation(self) -> "EvaluationPlan | None":
        """How samples of a teacher that was pretrained on this data are judged; None when unknown."""
        return None
