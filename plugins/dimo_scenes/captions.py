"""What captions say, and the closed grammar in which they say it: ``Caption``, ``parse``, ``vocabulary``."""

import functools
import re
from collections.abc import Iterator
from typing import Any, Literal

import attrs

from dimo_core.errors import UsageError

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS = ("red", "green", "blue", "yellow", "purple", "white")

TAGS = ("single_object", "two_object", "colors", "position", "color_attr")
"""The kinds of prompts, by GenEval's names."""

PLAIN = ("a {digit}", "the digit {digit}", "the number {digit}", "a handwritten {digit}")
"""Phrasings of a digit whose colour is left open."""

COLOURED = (
    "a {colour} {digit}",
    "a {digit} in {colour}",
    "a {digit} that is {colour}",
    "the {colour} digit {digit}",
)
"""Phrasings of a digit and its colour."""

Order = Literal["", "left of", "right of"]
"""Where the first digit is, seen from the second; empty when the caption leaves it open."""


@attrs.frozen
class Relation:
    """How a caption joins two digits.

    Attributes:
        text: With a place for each of them.
        order: What it says about their places.
    """

    text: str
    order: Order = ""


RELATIONS = (
    Relation("{} and {}"),
    Relation("{} next to {}"),
    Relation("{} beside {}"),
    Relation("{} with {}"),
    Relation("{} to the left of {}", "left of"),
    Relation("{} left of {}", "left of"),
    Relation("{} on the left and {} on the right", "left of"),
    Relation("{} to the right of {}", "right of"),
    Relation("{} right of {}", "right of"),
    Relation("{} on the right and {} on the left", "right of"),
)


@attrs.frozen(kw_only=True)
class Caption:
    """What a caption says, and how.

    Attributes:
        digits: One digit, or two different ones, in the order of the text.
        colours: Colour of each, as an index into ``COLOURS``; empty when it is left open.
        phrasing: Place in ``COLOURED``, or in ``PLAIN`` without colours.
        relation: Place in ``RELATIONS``; 0 for one digit.
    """

    digits: tuple[int, ...]
    colours: tuple[int, ...] = ()
    phrasing: int = 0
    relation: int = 0

    @property
    def order(self) -> Order:
        """What it says about the places of two digits."""
        return RELATIONS[self.relation].order if len(self.digits) == 2 else ""

    @property
    def tag(self) -> str:
        """Which of ``TAGS`` it belongs to; what states an order is ``position``, with colours or without."""
        if len(self.digits) == 1:
            return "colors" if self.colours else "single_object"
        if self.order:
            return "position"
        return "color_attr" if self.colours else "two_object"

    @property
    def text(self) -> str:
        """The caption in words."""
        template = (COLOURED if self.colours else PLAIN)[self.phrasing]
        colours = [COLOURS[c] for c in self.colours] or [""] * len(self.digits)
        objects = [
            template.format(digit=DIGITS[d], colour=colour)
            for d, colour in zip(self.digits, colours, strict=True)
        ]
        joined = objects[0] if len(objects) == 1 else RELATIONS[self.relation].text.format(*objects)
        return joined.replace("a eight", "an eight")

    def record(self) -> dict[str, Any]:
        """The caption as an object of GenEval's ``evaluation_metadata.jsonl``."""
        include: list[dict[str, Any]] = [{"class": DIGITS[d], "count": 1} for d in self.digits]
        for entry, colour in zip(include, self.colours, strict=False):
            entry["color"] = COLOURS[colour]
        if self.order:  # GenEval places the later object, seen from the earlier one
            opposite = {"left of": "right of", "right of": "left of"}[self.order]
            include[1]["position"] = [opposite, 0]
        return {"tag": self.tag, "include": include, "prompt": self.text}


def parse(text: str) -> Caption:
    """The caption of which ``text`` is the wording.

    Raises:
        UsageError: for any other text.
    """
    bare = text.replace("an eight", "a eight")
    for pattern, coloured, phrasing, relation in _patterns():
        if found := pattern.fullmatch(bare):
            caption = Caption(
                digits=tuple(DIGITS.index(w) for name, w in found.groupdict().items() if name[0] == "d"),
                colours=tuple(COLOURS.index(w) for name, w in found.groupdict().items() if name[0] == "c"),
                phrasing=phrasing,
                relation=relation,
            )
            if coloured == bool(caption.colours) and caption.text == text and _different(caption.digits):
                return caption
    raise UsageError(
        f"{text!r} is no caption of the scenes. They read like {_examples()}: one digit or two different"
        f" ones, in lower case, of the colours {', '.join(COLOURS)}."
    )


def vocabulary() -> tuple[str, ...]:
    """All words of all captions, sorted."""
    templates = " ".join([*PLAIN, *COLOURED, *(relation.text for relation in RELATIONS)])
    words = set(re.sub(r"\{\w*\}", " ", templates).split())
    return tuple(sorted(words | {"an", *DIGITS, *COLOURS}))


@functools.cache
def longest() -> int:
    """Words of the longest caption."""
    objects = max(len(template.split()) for template in (*PLAIN, *COLOURED))
    joints = max(len(relation.text.replace("{}", "").split()) for relation in RELATIONS)
    return 2 * objects + joints


def _different(digits: tuple[int, ...]) -> bool:
    return len(set(digits)) == len(digits)


def _examples() -> str:
    shown = (
        Caption(digits=(7,), colours=(0,)),
        Caption(digits=(3, 9), relation=1),
        Caption(digits=(3, 9), colours=(2, 1), relation=4),
    )
    return ", ".join(repr(caption.text) for caption in shown)


@functools.cache
def _patterns() -> tuple[tuple[re.Pattern[str], bool, int, int], ...]:
    return tuple(_made_patterns())


def _made_patterns() -> Iterator[tuple[re.Pattern[str], bool, int, int]]:
    """Each way to say something: a pattern, whether it states colours, its phrasing and its relation."""
    for coloured, templates in ((False, PLAIN), (True, COLOURED)):
        for phrasing, template in enumerate(templates):
            first, second = (
                template.format(
                    digit=f"(?P<d{k}>{'|'.join(DIGITS)})", colour=f"(?P<c{k}>{'|'.join(COLOURS)})"
                )
                for k in range(2)
            )
            yield re.compile(first), coloured, phrasing, 0
            for relation, joint in enumerate(RELATIONS):
                yield re.compile(joint.text.format(first, second)), coloured, phrasing, relation
