"""Whether pictures show what their prompts say: ``Composition``, in the manner of GenEval."""

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any, ClassVar, Literal

import attrs

from dimo_core.errors import UsageError
from dimo_core.metric import Metric, Samples
from dimo_core.teacher import Teacher
from dimo_scenes.captions import TAGS, Caption, parse
from dimo_scenes.drawing import Item
from dimo_scenes.reader import read, shipped_reader


def shows(items: Sequence[Item], caption: Caption) -> bool:
    """Whether these digits are those of the caption, in its colours and order, and no others."""
    if len(items) != len(caption.digits):
        return False
    return any(_fits(arranged, caption) for arranged in permutations(items))


def by_tag(pictures: Sequence[Sequence[Item]], captions: Sequence[Caption]) -> dict[str, float]:
    """Share of pictures that show what their captions say: by tag, and the mean of the tags, ``overall``."""
    right: dict[str, list[bool]] = {}
    for items, caption in zip(pictures, captions, strict=True):
        right.setdefault(caption.tag, []).append(shows(items, caption))
    shares = {tag: sum(right[tag]) / len(right[tag]) for tag in TAGS if tag in right}
    return {"overall": sum(shares.values()) / len(shares), **shares}


def _fits(items: Sequence[Item], caption: Caption) -> bool:
    """Whether each item is what the caption says in its place."""
    if tuple(item.digit for item in items) != caption.digits:
        return False
    if caption.colours and tuple(item.colour for item in items) != caption.colours:
        return False
    return not caption.order or (caption.order == "left of") == (items[0].place < items[1].place)


@attrs.frozen(kw_only=True)
class Composition(Metric):
    """Share of pictures that show what their prompts say, by the tags of GenEval (arXiv 2310.11513).

    A picture is right when the shipped reader is sure of it and finds every digit that the prompt names, in
    the colour and order that it states, and nothing else. ``overall``: mean of the tags that occur.
    ``readable``: share of pictures in which the reader is sure of one or more digits, whichever.
    """

    better: ClassVar[Mapping[str, Literal["larger", "smaller"]]] = dict.fromkeys(
        ("overall", *TAGS, "readable"), "larger"
    )

    needs: ClassVar[frozenset[str]] = frozenset({"conditions", "images"})

    def compute(self, samples: Samples, reference: Samples | None, teacher: Teacher) -> Mapping[str, float]:
        """``overall``, each tag that occurs, and ``readable``; the reference is not needed.

        Raises:
            UsageError: when samples are no images of 16x16, or conditions no captions of scenes.
        """
        if samples.images is None:
            raise UsageError(
                "metric 'composition' reads images, and these samples are tokens. Choose other metrics."
            )
        captions = [_caption(condition) for condition in samples.conditions]
        readings = read(shipped_reader(), samples.images)
        readable = sum(readings.readable) / len(captions)
        return {**by_tag(readings.items(), captions), "readable": readable}


def _caption(condition: Any) -> Caption:
    if not isinstance(condition, str):
        raise UsageError(
            f"metric 'composition' judges by prompts, got the condition {condition!r}."
            " Choose other metrics for this teacher."
        )
    return parse(condition)
