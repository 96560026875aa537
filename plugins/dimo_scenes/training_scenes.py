"""What the reader is trained on: scenes of its own scans, distorted, and things that are no digits."""

import attrs
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dimo_scenes.composing import COLUMNS, GROUND, INKS, ROW, SCAN, SIDE, Handwriting
from dimo_scenes.drawing import LEFT, MIDDLE, RIGHT
from dimo_scenes.reader import NOTHING, UNREADABLE

SPOILED = 0.2
"""Share of the digits that are spoiled."""

NOISE = 0.06
"""Share of the pictures that are nothing but noise."""


@attrs.frozen(kw_only=True, eq=False)
class Lesson:
    """Pictures, and what is to be read in the windows of each: left, middle, right.

    Attributes:
        images: From -1 to 1.
        shapes: Digit, ``NOTHING`` or ``UNREADABLE``.
        colours: Colours of the digits.
    """

    images: Float[Tensor, "N 3 16 16"]
    shapes: Int[Tensor, "N 3"]
    colours: Int[Tensor, "N 3"]


def lesson(scans: Handwriting, count: int) -> Lesson:
    """Random pictures: two digits, one, none, spoiled ones, noise; from torch's global generator."""
    present = _places(count)
    shapes = torch.full((count, 3), NOTHING)
    colours = torch.randint(len(INKS), (count, 3))
    ground, inks = torch.tensor(GROUND) / 255, torch.tensor(INKS) / 255
    images = (ground + 0.03 * torch.randn(count, 3)).clamp(0, 1)[:, :, None, None].repeat(1, 1, SIDE, SIDE)
    for where in (LEFT, MIDDLE, RIGHT):
        (rows,) = torch.where(present[:, where])
        if not len(rows):
            continue
        digits = torch.randint(10, (len(rows),))
        ink = distorted(scans.choose(digits, torch.rand(len(rows))))
        paint = (inks[colours[rows, where]] + 0.06 * torch.randn(len(rows), 3)).clamp(0, 1)[:, :, None, None]
        paint = paint.expand(-1, -1, SCAN, SCAN)
        spoiled = torch.rand(len(rows)) < SPOILED
        bad_ink, bad_paint = spoil(scans, ink, paint, digits)
        ink = torch.where(spoiled[:, None, None], bad_ink, ink)[:, None]
        paint = torch.where(spoiled[:, None, None, None], bad_paint, paint)
        shapes[rows, where] = torch.where(spoiled, UNREADABLE, digits)
        tops, shifts = ROW - 1 + torch.randint(3, (len(rows),)), torch.randint(-1, 2, (len(rows),))
        lefts = COLUMNS[where] + shifts * (where == MIDDLE)
        for k, row in enumerate(rows.tolist()):
            area = images[row, :, int(tops[k]) :, int(lefts[k]) :][:, :SCAN, :SCAN]
            area += ink[k] * (paint[k] - area)
    noisy = torch.rand(count) < NOISE
    images[noisy] = noise(int(noisy.sum()))
    shapes[noisy] = UNREADABLE
    return Lesson(images=_degraded(images) * 2 - 1, shapes=shapes, colours=colours)


def distorted(ink: Float[Tensor, "N 8 8"]) -> Float[Tensor, "N 8 8"]:
    """Small random turns, shears, changes of size, shifts below a pixel, and more or less ink."""
    count = len(ink)
    bend = torch.eye(2) + 0.14 * (2 * torch.rand(count, 2, 2) - 1)
    turn = 0.2 * (2 * torch.rand(count) - 1)
    rotation = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], 1).view(count, 2, 2)
    shift = 0.14 * (2 * torch.rand(count, 2, 1) - 1)
    grid = F.affine_grid(torch.cat([rotation @ bend, shift], 2), [count, 1, SCAN, SCAN], align_corners=False)
    moved = F.grid_sample(ink[:, None], grid, align_corners=False)[:, 0]
    return (moved * (0.85 + 0.3 * torch.rand(count, 1, 1))).clamp(0, 1)


def spoil(
    scans: Handwriting,
    ink: Float[Tensor, "n 8 8"],
    paint: Float[Tensor, "n 3 8 8"],
    digits: Int[Tensor, " n"],
) -> tuple[Float[Tensor, "n 8 8"], Float[Tensor, "n 3 8 8"]]:
    """Ink and paint of what is no digit: two on top of each other, halves, shuffled parts, two colours."""
    count = len(ink)
    others = (digits + torch.randint(1, 10, (count,))) % 10
    other = distorted(scans.choose(others, torch.rand(count)))
    half = _half(count)
    colours = torch.tensor(INKS) / 255
    mixed = torch.where(half[:, None], paint, colours[torch.randint(len(colours), (count,))][..., None, None])
    alike = (mixed - paint).abs().amax((1, 2, 3)) < 0.3
    parts = ink.view(count, 4, 2, 4, 2).permute(0, 1, 3, 2, 4).flatten(1, 2)
    order = torch.rand(count, 16).argsort(1)
    shuffled = parts[torch.arange(count)[:, None], order].view(count, 4, 4, 2, 2).transpose(2, 3)
    way = torch.randint(5, (count,)).view(-1, 1, 1)
    way = torch.where((way == 3) & alike.view(-1, 1, 1), 0, way)  # two colours that are one
    bad = torch.maximum(ink, other)
    bad = torch.where(way == 1, torch.where(half, ink, other), bad)
    bad = torch.where(way == 2, shuffled.reshape(count, SCAN, SCAN), bad)
    bad = torch.where(way == 3, ink, bad)
    bad = torch.where(way == 4, torch.rand(count, SCAN, SCAN), bad)
    return bad, torch.where((way == 3)[:, None], mixed, paint)


def noise(count: int) -> Float[Tensor, "n 3 16 16"]:
    """Pictures of noise, fine or coarse, in gray or in colour."""
    sides = [F.interpolate(torch.rand(count, 3, side, side), SIDE) for side in (SIDE, SIDE // 2, SIDE // 4)]
    chosen = torch.stack(sides)[torch.randint(3, (count,)), torch.arange(count)]
    gray = torch.rand(count, 1, 1, 1) < 0.2
    return torch.where(gray, chosen[:, :1], chosen)


def _places(count: int) -> Bool[Tensor, "N 3"]:
    """Which places hold a digit: two in 55 %, one in the middle in 30 %, at a side in 10 %, none in 5 %."""
    ways = torch.tensor([[1, 0, 1]] * 11 + [[0, 1, 0]] * 6 + [[1, 0, 0], [0, 0, 1]] + [[0, 0, 0]]).bool()
    return ways[torch.randint(len(ways), (count,))]


def _half(count: int) -> Bool[Tensor, "n 8 8"]:
    """One side of a line through the middle of a scan: upright, level, or either diagonal."""
    y, x = torch.meshgrid(torch.arange(SCAN), torch.arange(SCAN), indexing="ij")
    sides = torch.stack([x < 4, y < 4, x < y, x + y < 7])
    return sides[torch.randint(len(sides), (count,))]


def _degraded(images: Float[Tensor, "N 3 16 16"]) -> Float[Tensor, "N 3 16 16"]:
    """A little blur and noise, as a tokenizer leaves them."""
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    share = 0.35 * torch.rand(len(images), 1, 1, 1) * (torch.rand(len(images), 1, 1, 1) < 0.5)
    rough = torch.rand(len(images), 1, 1, 1) * 0.06 * torch.randn_like(images)
    return (images + share * (blurred - images) + rough).clamp(0, 1)
