"""What the reader reads: ``DigitMetrics``, exact numbers that need no feature space."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import attrs
import torch
from attrs import validators as v
from jaxtyping import Float, Int
from torch import Tensor

from dimo_core.errors import UsageError
from dimo_core.metric import Metric, Samples
from dimo_core.teacher import Teacher
from dimo_digits.reader import DigitReader

READABLE = 0.8
"""Probability of the best digit from which a sample counts as readable: 97 % of real scans do."""

DIGITS = 10


@attrs.frozen(kw_only=True)
class DigitMetrics(Metric):
    """Whether samples are digits, of the class that was asked for, and of all the digits of that class.

    ``readable``: share of samples of which the reader is sure. ``accuracy``: share that is read as a digit
    of the given class (the class is a parity or a digit). ``entropy``: of the digits that are read within
    their class, in nats, averaged over the classes: ln 5 = 1.609 when the five digits of a parity are
    equally frequent, 0 when a class has collapsed to one of them.

    Attributes:
        threshold: Probability of the best digit from which a sample counts as readable.
    """

    better: ClassVar[Mapping[str, Literal["larger", "smaller"]]] = {
        "readable": "larger",
        "accuracy": "larger",
        "entropy": "larger",
    }

    needs: ClassVar[frozenset[str]] = frozenset({"conditions", "images", "features"})

    threshold: float = attrs.field(default=READABLE, validator=[v.gt(0), v.lt(1)])

    def compute(self, samples: Samples, reference: Samples | None, teacher: Teacher) -> Mapping[str, float]:
        """``readable``, ``accuracy`` and ``entropy``; the reference is not needed.

        Raises:
            UsageError: when samples are no images of digits, or the classes neither parities nor digits.
        """
        class_of_digit = classes_of_digits(teacher.conditioning.classes)
        probabilities, read = _logits(samples).softmax(1).max(1)
        asked = torch.tensor([int(c) for c in samples.conditions])
        return {
            "readable": (probabilities >= self.threshold).double().mean().item(),
            "accuracy": (class_of_digit[read] == asked).double().mean().item(),
            "entropy": entropy_within_classes(read, asked, class_of_digit),
        }


def classes_of_digits(classes: tuple[str, ...]) -> Int[Tensor, " 10"]:
    """The class index of each digit 0 .. 9, for the classes of a teacher of digits.

    Raises:
        UsageError: when they are neither even and odd nor the ten digits.
    """
    digits = torch.arange(DIGITS)
    if classes == ("even", "odd"):
        return digits % 2
    if classes == tuple(map(str, range(DIGITS))):
        return digits
    shown = ", ".join(classes[:12]) or "none"
    raise UsageError(
        f"metric 'digits' judges the classes even, odd or 0, 1, ... 9; the teacher has: {shown}."
        " Choose other metrics for this teacher."
    )


def entropy_within_classes(
    read: Int[Tensor, " N"], asked: Int[Tensor, " N"], class_of_digit: Int[Tensor, " 10"]
) -> float:
    """Entropy in nats of the digits read within the class that was asked for, averaged over those classes."""
    right = class_of_digit[read] == asked
    entropies = []
    for c in sorted(set(asked.tolist())):
        counts = read[right & (asked == c)].bincount(minlength=DIGITS).double()
        share = counts / counts.sum().clamp_min(1)
        entropies.append(-torch.special.xlogy(share, share).sum())
    return float(torch.stack(entropies).mean())


def _logits(samples: Samples) -> Float[Tensor, "N 10"]:
    """The reader's logits: those that come with the samples, else read from their images."""
    if samples.logits is not None and samples.logits.shape[1] == DIGITS:
        return samples.logits
    if samples.images is None:
        raise UsageError("metric 'digits' reads images, and these samples are tokens. Choose other metrics.")
    _, logits = DigitReader().extract(samples.images)
    assert logits is not None
    return logits
