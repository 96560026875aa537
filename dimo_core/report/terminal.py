"""Curves and pictures in a terminal, from characters."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from PIL import Image
from rich.color import Color
from rich.segment import Segment, Segments
from rich.style import Style

from dimo_core.report.plots import WIDE, spread

BLOCKS, PLAIN = "▁▂▃▄▅▆▇█", "_.-=+*#@"
UPPER = "▀"


def curve(values: Sequence[float], width: int, *, plain: bool = False) -> str:
    """A curve as one line of characters; logarithmic where its values differ more than tenfold.

    Args:
        values: In order, finite.
        width: The most characters; several values share one, as their mean.
        plain: Use ASCII only.
    """
    scaled = [math.log(v) for v in values] if spread(values) > WIDE else [*values]
    count = min(len(scaled), width)
    edges = [round(i * len(scaled) / count) for i in range(count + 1)] if count else []
    means = [sum(scaled[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    signs = PLAIN if plain else BLOCKS
    top = len(signs) - 1
    return "".join(signs[round(top * (m - low) / (high - low)) if high > low else 0] for m in means)


def picture(image: Image.Image, columns: int, lines: int) -> Segments:
    """A picture in coloured half blocks, two pixels a character, its shape kept; never enlarged.

    Args:
        image: Of any mode.
        columns: The most characters a line.
        lines: The most lines.
    """
    factor = min(columns / image.width, 2 * lines / image.height, 1.0)
    width, height = max(1, int(image.width * factor)), 2 * max(1, int(image.height * factor / 2))
    small = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BOX))
    found = []
    for upper, lower in zip(small[::2].tolist(), small[1::2].tolist(), strict=True):
        for above, below in zip(upper, lower, strict=True):
            found.append(Segment(UPPER, Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below))))
        found.append(Segment.line())
    return Segments(found)
