"""Pictures: scans in colour on a dark ground."""

import functools
from collections.abc import Sequence
from importlib.resources import files

import attrs
import torch
from jaxtyping import Float, Int, UInt8
from safetensors.torch import load
from torch import Tensor

from dimo_scenes.drawing import MIDDLE, Item

SIDE, SCAN = 16, 8
"""Height and width of a picture, and of a scan in it."""

LEVELS = 16
"""Full ink in the scans; their values are 0 .. 16."""

INKS = ((235, 55, 45), (50, 200, 80), (60, 110, 255), (250, 215, 45), (190, 75, 230), (245, 245, 245))
"""Red, green and blue of each of ``captions.COLOURS`` at full ink."""

GROUND = (18, 18, 28)
"""Red, green and blue where there is no ink."""

COLUMNS = (0, 4, 8)
"""First column of a scan to the left, in the middle (there one less or more is possible), to the right."""

ROW = 4
"""First row of a scan; one less or more is possible too."""

PARTS = ("teacher", "reader", "reference")
"""Who may see a scan: the teacher trains on its own, the reader on its own, and nothing on the reference."""


def part_of(digits: Int[Tensor, " N"], *, seed: int = 0) -> Int[Tensor, " N"]:
    """The part of each scan, as an index into ``PARTS``.

    The scans of each digit are shuffled with the seed; of every five, three go to the teacher, one to the
    reader and one to the reference.
    """
    generator = torch.Generator().manual_seed(seed)
    dealt = torch.tensor([0, 1, 0, 2, 0])
    part = torch.zeros_like(digits)
    for digit in range(10):
        (rows,) = torch.where(digits == digit)
        shuffled = rows[torch.randperm(len(rows), generator=generator)]
        part[shuffled] = dealt.repeat(-(-len(rows) // 5))[: len(rows)]
    return part


@functools.cache
def stored() -> dict[str, Tensor]:
    """The shipped file: ``images`` [1797, 8, 8] of 0 .. 16, ``digits`` [1797], ``part`` [1797], all uint8."""
    return load(files("dimo_scenes").joinpath("scans.safetensors").read_bytes())


@attrs.frozen(eq=False)
class Handwriting:
    """The scans of one part, sorted by digit.

    Attributes:
        images: From 0 to 1 at full ink.
        counts: How many there are of each digit.
    """

    images: Float[Tensor, "n 8 8"]
    counts: Int[Tensor, " 10"]

    def choose(self, digits: Int[Tensor, " N"], u: Float[Tensor, " N"]) -> Float[Tensor, "N 8 8"]:
        """A scan of each digit, by a number on [0, 1)."""
        first = self.counts.cumsum(0) - self.counts
        return self.images[first[digits] + (u.double() * self.counts[digits]).long()]


@functools.cache
def handwriting(part: str) -> Handwriting:
    """The scans of one of ``PARTS``."""
    tensors = stored()
    (rows,) = torch.where(tensors["part"] == PARTS.index(part))
    digits = tensors["digits"][rows].long()
    images = tensors["images"][rows[digits.argsort(stable=True)]]
    return Handwriting(images.float() / LEVELS, digits.bincount(minlength=10))


def compose(
    scenes: Sequence[tuple[Item, ...]], u: Float[Tensor, "N 12"], scans: Handwriting
) -> UInt8[Tensor, "N 3 16 16"]:
    """Pictures; the last five numbers of each choose scans, and shifts by a pixel.

    Args:
        scenes: What is in each picture: one or two digits.
        u: The numbers of each, as ``drawing.uniforms`` gives them.
        scans: What they are made of.
    """
    images = torch.tensor(GROUND).float().repeat(len(scenes), SIDE, SIDE, 1)
    paint = (torch.tensor(INKS) - torch.tensor(GROUND)).float()
    for k in range(2):
        rows = torch.tensor([i for i, items in enumerate(scenes) if len(items) > k], dtype=torch.long)
        items = [scenes[i][k] for i in rows.tolist()]
        ink = scans.choose(_column(items, "digit"), u[rows, 7 + k])
        tops = ROW - 1 + (u[rows, 9 + k] * 3).long()
        places = _column(items, "place")
        lefts = torch.tensor(COLUMNS)[places] + ((u[rows, 11] * 3).long() - 1) * (places == MIDDLE)
        span = torch.arange(SCAN)
        where = (rows.view(-1, 1, 1), (tops[:, None] + span)[:, :, None], (lefts[:, None] + span)[:, None])
        images[where] += ink[..., None] * paint[_column(items, "colour")][:, None, None]
    return images.permute(0, 3, 1, 2).round().to(torch.uint8).contiguous()


def _column(items: Sequence[Item], name: str) -> Int[Tensor, " n"]:
    return torch.tensor([getattr(item, name) for item in items], dtype=torch.long)
