"""The scans, and how they are divided: ``Digits``."""

import functools
from collections.abc import Sequence
from importlib.resources import files
from typing import Literal

import attrs
import torch
from attrs import validators as v
from jaxtyping import Float, Int
from safetensors.torch import load
from torch import Tensor

from dimo_core.choice import Choice
from dimo_core.draws import Draws
from dimo_core.errors import UsageError
from dimo_core.sources import Data, Examples
from dimo_core.suggestions import EvaluationPlan
from dimo_digits.augmentation import augmented

SPLITS = ("teacher", "reader", "reference")
"""Who may see a part: the teacher trains on its own, the reader on its own, and nothing on the reference."""

LEVELS = 16
"""Full ink in the scans; their values are 0 .. 16."""


def split_of(digits: Int[Tensor, " N"], *, seed: int = 0) -> Int[Tensor, " N"]:
    """The part of each scan, as an index into ``SPLITS``.

    The scans of each digit are shuffled with the seed and dealt out in fives: three to the teacher, one to
    the reader, one to the reference. Each part so holds the digits in the same shares.
    """
    generator = torch.Generator().manual_seed(seed)
    deal = torch.tensor([0, 1, 0, 2, 0])
    part = torch.empty_like(digits)
    for digit in range(10):
        rows = (digits == digit).nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=generator)]
        part[rows] = deal[torch.arange(len(rows)) % len(deal)]
    return part


@functools.cache
def scans() -> dict[str, Tensor]:
    """The stored file: ``images`` [1797, 8, 8] of 0 .. 16, ``digits`` [1797], ``split`` [1797], all uint8."""
    return load(files("dimo_digits").joinpath("digits.safetensors").read_bytes())


@attrs.frozen(kw_only=True)
class Digits(Data):
    """Handwritten digits of 8x8 pixels (UCI optical digits, shipped in the package).

    Attributes:
        classes: What is given as the condition: even or odd, or which of the ten digits.
        augment_probability: Probability of a small random change, when a teacher is trained on the scans.
    """

    classes: Literal["parity", "digit"] = attrs.field(
        default="parity", validator=attrs.validators.in_(("parity", "digit"))
    )
    augment_probability: float = attrs.field(default=0.5, validator=[v.ge(0), v.le(1)])

    def splits(self) -> Sequence[str]:
        """``teacher`` (three fifths), ``reader`` and ``reference`` (one fifth each)."""
        return SPLITS

    def load(self, split: str) -> Examples:
        """Read one part; ``details["digit"]`` holds the digit of each scan.

        Raises:
            UsageError: for an unknown split.
        """
        if split not in SPLITS:
            raise UsageError(f"data 'digits' has no split {split!r}. Known: {', '.join(SPLITS)}.")
        stored = scans()
        rows = stored["split"] == SPLITS.index(split)
        digits = stored["digits"][rows].long()
        images = (stored["images"][rows].float() * (255 / LEVELS)).round().to(torch.uint8)
        parity = self.classes == "parity"
        return Examples(
            images=images[:, None],
            labels=digits % 2 if parity else digits,
            classes=("even", "odd") if parity else tuple("0123456789"),
            details={"digit": digits},
        )

    @property
    def augments(self) -> bool:
        """Whether any scan is changed in training."""
        return self.augment_probability > 0

    def augment(self, images: Float[Tensor, "B C H W"], draws: Draws) -> Float[Tensor, "B C H W"]:
        """Small rotations, shears, changes of size, shifts, and noise."""
        return augmented(images, self.augment_probability, draws)

    def evaluation(self) -> EvaluationPlan:
        """Judged by a reader, and against scans, that no teacher saw."""
        return EvaluationPlan(
            data=Choice("digits", {"classes": self.classes}),
            split="reference",
            floor_split="teacher",
            features=Choice("digits-reader"),
            metrics=(Choice("fidelity"), Choice("density-coverage"), Choice("digits")),
            best="fid",
            samples=3000,
            sampler=Choice("maskgit", {"schedule": "cosine", "counts": "cumulative", "gumbel": 4.5}),
            shown=(
                "fid",
                "readable",
                "accuracy",
                "entropy",
                "precision",
                "recall",
                "is",
                "kid",
                "density",
                "coverage",
            ),
        )
