"""Sheets of samples as PNG, or as text where samples are lines."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import attrs
import matplotlib
import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from dimo_core import conditions
from dimo_core.backbone import Backbone, inference
from dimo_core.conditions import Condition
from dimo_core.device import arithmetic
from dimo_core.draws import Draws
from dimo_core.files.images import as_image, png
from dimo_core.generator import Generator
from dimo_core.sampler import TeacherSampling
from dimo_core.settings import Precision
from dimo_core.sources import Conditions
from dimo_core.teacher import Preview, Teacher
from dimo_core.texts import printable, steps_of
from dimo_core.tokens import Tokens

PAPER, INK, QUIET = "#fbfbf9", "#22252a", "#6b7078"
GAP, MARGIN, TEXT = 4, 14, 15
SMALLEST, WIDEST, LABEL = 40, 1800, 360
"""Pixels: least side of a cell; most for a row of cells, and for a label."""

SITES = 4096
"""The most tokens of a sheet of a run, where that leaves at least 3 x 3: large pictures take long."""


@attrs.frozen
class Sheet:
    """A sheet, ready to be written.

    Attributes:
        data: Bytes of the file.
        suffix: ``.png`` or ``.txt``.
    """

    data: bytes
    suffix: str


def sheet(preview: Preview, names: Sequence[str] = (), columns: int | None = None) -> Sheet:
    """All samples of one preview: a picture of its images, or its lines as text.

    Args:
        preview: The samples.
        names: Condition of each sample as people read it; a row of one condition is labelled with it.
        columns: Samples a row; about a square when None.
    """
    square = 1 if preview.images is None else math.isqrt(len(preview.images) - 1) + 1
    return beside({"": preview}, names, columns or square)


def beside(panels: Mapping[str, Preview], names: Sequence[str], columns: int) -> Sheet:
    """The same conditions sampled in several ways, such as teacher and generator, side by side.

    Args:
        panels: The samples by caption; all of the same conditions and of one kind.
        names: Condition of each sample.
        columns: Samples a row of one panel.
    """
    images = {title: preview.images for title, preview in panels.items() if preview.images is not None}
    if len(images) < len(panels):
        return _text(panels, names)
    blocks = [
        grid(x, columns=columns, rows=_row_names(names, columns), title=title, labels=not i)
        for i, (title, x) in enumerate(images.items())
    ]
    return Sheet(png(Image.fromarray(np.hstack([np.asarray(block) for block in blocks]))), ".png")


def below(previews: Mapping[str, Preview], names: Sequence[str]) -> Sheet:
    """The same conditions and draws in several ways, one below the other.

    Args:
        previews: The samples of each row by caption, in order.
        names: Condition of each sample.
    """
    images = [preview.images for preview in previews.values() if preview.images is not None]
    if len(images) < len(previews):
        return _text(previews, names)
    return Sheet(png(grid(torch.cat(images), columns=len(images[0]), rows=tuple(previews))), ".png")


def grid(
    images: UInt8[Tensor, "N C H W"],
    *,
    columns: int,
    rows: Sequence[str] = (),
    title: str = "",
    labels: bool = True,
) -> Image.Image:
    """Images in rows on light paper, with a label beside each row and a title above.

    Small images grow by whole pixels, and large ones shrink to fit.

    Args:
        images: Grey or RGB.
        columns: Images a row.
        rows: Name of each row; rows of one name stand together and are labelled once.
        title: Caption of the whole.
        labels: False leaves the names out.
    """
    grown = max(1, -(-SMALLEST // max(images.shape[2:])))
    scale = grown * min(1.0, WIDEST / (columns * images.shape[3] * grown))
    height, width = (max(1, round(side * scale)) for side in images.shape[2:])
    filtered = Image.Resampling.LANCZOS if width < images.shape[3] else Image.Resampling.NEAREST
    left, top = MARGIN, MARGIN + (round(1.6 * TEXT) if title else 0)
    if rows and labels:
        left += round(max(_font().getlength(_fitted(name, LABEL)) for name in rows)) + 10
    across = columns * (width + GAP) - GAP
    tops = _tops(-(-len(images) // columns), height, rows)
    paper = Image.new("RGB", (left + across + MARGIN, top + tops[-1] + height + MARGIN), PAPER)
    draw = ImageDraw.Draw(paper)
    draw.text((left, MARGIN - 2), _fitted(title, across), fill=INK, font=_font())
    for i, name in enumerate(rows if labels else ()):
        if i == 0 or name != rows[i - 1]:
            middle = (left - 10, top + tops[i] + height // 2)
            draw.text(middle, _fitted(name, LABEL), fill=QUIET, font=_font(), anchor="rm")
    for i, image in enumerate(images):
        cell = as_image(image).resize((width, height), filtered)
        paper.paste(cell, (left + i % columns * (width + GAP), top + tops[i // columns]))
    return paper


def _row_names(names: Sequence[str], columns: int) -> list[str]:
    """The name that all samples of a row share, or nothing."""
    rows = [names[i : i + columns] for i in range(0, len(names), columns)]
    return [row[0] if len(set(row)) == 1 else "" for row in rows]


def _tops(count: int, height: int, rows: Sequence[str]) -> list[int]:
    """Where each row begins; where some rows share a name, there is more space between names."""
    more = 2 * GAP if len(set(rows)) < len(rows) else 0
    new = [i < len(rows) and rows[i] != rows[i - 1] for i in range(1, count)]
    return list(accumulate((height + GAP + more * each for each in new), initial=0))


def _fitted(text: str, width: int) -> str:
    """The text on one line, or as much of its beginning as fits."""
    cut = printable(text[: width + 1])  # no letter is narrower than a pixel
    shorter = (f"{cut[:n]}…" for n in reversed(range(len(cut))))
    return next((each for each in (cut, *shorter) if _font().getlength(each) <= width), "…")


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and knows the letters of most languages."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", TEXT)


def _text(panels: Mapping[str, Preview], names: Sequence[str]) -> Sheet:
    """Lines under a caption for each panel, each line after the name of its condition."""
    parts, names = [], [printable(name, LABEL) for name in names]
    for title, preview in panels.items():
        lines = preview.lines or ()
        width = max((len(name) for name in names[: len(lines)]), default=0)
        named = [
            f"{names[i] if i < len(names) else '':{width}}  {line}".lstrip() if names else line
            for i, line in enumerate(lines)
        ]
        parts.append("\n".join([f"# {title}", *named] if title else named))
    return Sheet(("\n\n".join(parts) + "\n").encode(), ".txt")


@attrs.frozen(kw_only=True, eq=False)
class FixedSamples:
    """The same few conditions and draws at every moment of a run, so that sheets compare.

    Attributes:
        teacher: Encodes conditions and makes previews.
        raw: The conditions, row by row; one condition fills a row.
        columns: Samples a row.
        seed: Seed of the draws.
        device: Where the networks are.
        precision: How they compute when they draw; tokens are decoded in fp32.
    """

    teacher: Teacher
    raw: tuple[Any, ...]
    columns: int
    seed: int
    device: torch.device
    precision: Precision = "fp32"

    @classmethod
    def of(
        cls,
        teacher: Teacher,
        conditions: Conditions,
        *,
        seed: int,
        device: torch.device,
        precision: Precision = "fp32",
    ) -> "FixedSamples":
        """Rows of evenly spread conditions, equal ones together; 8 x 8 samples, or fewer of many tokens."""
        side = next((n for n in (8, 6, 4) if n * n * teacher.tokens.length <= SITES), 3)
        chosen = conditions.balanced(teacher.conditioning, side)
        order = [repr(raw) for raw in chosen]
        chosen = sorted(chosen, key=lambda raw: order.index(repr(raw)))
        raw = tuple(raw for raw in chosen for _ in range(side))
        how: Any = {"seed": seed, "device": device, "precision": precision}
        return cls(teacher=teacher, raw=raw, columns=side, **how)

    @property
    def names(self) -> tuple[str, ...]:
        """Each sample's condition as people read it."""
        return tuple(self.teacher.describe(raw) for raw in self.raw)

    def preview(self, network: nn.Module, draw: Callable[[Condition, Draws], Tokens]) -> Preview:
        """The samples that ``draw`` draws with a network, whose mode comes back."""
        draws = Draws(seed=self.seed, phase="showcase", total=len(self.raw), device=self.device)
        c = conditions.to(self.teacher.encode_conditions(self.raw), self.device)
        with inference(network):
            with arithmetic(self.precision, self.device):
                tokens = draw(c, draws)
            return self.teacher.preview(tokens, c)

    def of_generator(self, generator: Generator) -> Sheet:
        """Its samples: what ``samples/`` holds."""
        return sheet(self.preview(generator, generator.sample), self.names, self.columns)

    def side_by_side(self, generator: Generator, network: Backbone, way: TeacherSampling) -> Sheet:
        """The teacher in its steps, the generator in its own, and the teacher in as many as the generator.

        Args:
            generator: The trained generator.
            network: The teacher's network.
            way: How the teacher is sampled.
        """

        def teacher(steps: int) -> Preview:
            taken = attrs.evolve(way, steps=steps)
            return self.preview(network, lambda c, draws: taken.draw(self.teacher, network, c, draws).tokens)

        panels = {
            f"teacher, {steps_of(way.steps)}": teacher(way.steps),
            f"generator, {steps_of(generator.steps)}": self.preview(generator, generator.sample),
            f"teacher, {steps_of(generator.steps)}": teacher(generator.steps),
        }
        return beside(panels, self.names, self.columns)
