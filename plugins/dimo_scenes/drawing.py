"""Captions, and the scenes that they leave room for, as pure functions of seed and position."""

from collections.abc import Sequence
from typing import TypeVar

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from dimo_core.draws import stream_seed
from dimo_scenes.captions import COLOURED, PLAIN, RELATIONS, TAGS, Caption
from dimo_scenes.combinations import Choices

T = TypeVar("T")

BLOCK = 1024
"""Numbers are drawn in blocks of so many scenes, so that any slice can be made by itself."""

WIDTH = 12
"""Numbers of one scene: five for its caption, two for what that leaves open, five for scans and places."""

KINDS = (*TAGS, "position in colour")
"""What captions are drawn from, each as likely as the others."""

LEFT, MIDDLE, RIGHT = range(3)
"""Places."""


@attrs.frozen
class Item:
    """A digit in a picture.

    Attributes:
        digit: 0 .. 9.
        colour: Index into ``COLOURS``.
        place: ``LEFT``, ``MIDDLE`` or ``RIGHT``.
    """

    digit: int
    colour: int
    place: int


def uniforms(stream: str, seed: int, start: int, count: int) -> Float[Tensor, "{count} 12"]:
    """The numbers, uniform on [0, 1), of the scenes start .. start + count - 1 of a stream."""
    first, last = start // BLOCK, -(-(start + count) // BLOCK)
    blocks = [torch.empty(0, WIDTH)]
    for block in range(first, last):
        generator = torch.Generator().manual_seed(stream_seed("scenes", stream, seed, block))
        blocks.append(torch.rand(BLOCK, WIDTH, generator=generator))
    return torch.cat(blocks)[start - first * BLOCK :][:count]


def draw_caption(u: Sequence[float], choices: Choices) -> Caption:
    """The caption that the first five numbers of a scene stand for."""
    kind = pick(KINDS, u[0])
    if kind in ("single_object", "colors"):
        digit = int(u[1] * 10)
        if kind == "single_object":
            return Caption(digits=(digit,), phrasing=pick(choices.phrasings(digit), u[2]))
        colours = (pick(choices.colours(digit), u[3]),)
        return Caption(digits=(digit,), colours=colours, phrasing=pick(range(len(COLOURED)), u[2]))
    coloured = kind in ("color_attr", "position in colour")
    digits = pick(choices.pairs(), u[1])
    return Caption(
        digits=digits,
        colours=pick(choices.two_colours(digits), u[3]) if coloured else (),
        phrasing=pick(range(len(COLOURED if coloured else PLAIN)), u[2]),
        relation=pick(relations(ordered=kind.startswith("position")), u[4]),
    )


def relations(*, ordered: bool) -> tuple[int, ...]:
    """Those that state an order, or those that do not, as indices."""
    return tuple(i for i, relation in enumerate(RELATIONS) if bool(relation.order) == ordered)


def draw_items(caption: Caption, u: Sequence[float], choices: Choices) -> tuple[Item, ...]:
    """The digits of a picture that the caption describes; two numbers decide what it leaves open."""
    if len(caption.digits) == 1:
        (digit,) = caption.digits
        return (Item(digit, (caption.colours or (pick(choices.colours(digit), u[5]),))[0], MIDDLE),)
    colours = caption.colours or pick(choices.two_colours(caption.digits), u[5])
    first_is_left = caption.order == "left of" if caption.order else u[6] < 0.5
    places = (LEFT, RIGHT) if first_is_left else (RIGHT, LEFT)
    return tuple(Item(*item) for item in zip(caption.digits, colours, places, strict=True))


def pick(options: Sequence[T], u: float) -> T:
    """One of the options, all being equally likely where ``u`` is uniform on [0, 1)."""
    return options[int(u * len(options))]
