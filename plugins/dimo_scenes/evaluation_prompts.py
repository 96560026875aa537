"""The held-out prompts of the evaluation, in GenEval's form."""

import functools
import json
from collections.abc import Iterator
from importlib.resources import files

from dimo_core.draws import permutation
from dimo_scenes.captions import COLOURED, PLAIN, TAGS, Caption, parse
from dimo_scenes.combinations import Choices, Unseen, unseen
from dimo_scenes.drawing import relations

MOST = 96
"""Prompts of a tag, at most."""


def held_out_captions(tag: str) -> list[Caption]:
    """All captions of a tag with one combination that training never shows; ``position`` without colours."""
    return [caption for caption in _captions(tag) if len(unseen(caption)) == 1]


def chosen_captions(tag: str) -> list[Caption]:
    """Those of the evaluation: up to ``MOST``, in a mixed order, as many for each sort of combination."""
    found = held_out_captions(tag)
    mixed = [found[i] for i in permutation(0, 0, len(found), "evaluation", tag)]
    sorts: dict[Unseen, list[Caption]] = {}
    for caption in mixed:
        sorts.setdefault(unseen(caption)[0], []).append(caption)
    fewest = min(map(len, sorts.values()))
    turns = zip(*(sorts[name][:fewest] for name in sorted(sorts)), strict=True)
    return [caption for turn in turns for caption in turn][:MOST]


@functools.cache
def evaluation_captions() -> dict[str, tuple[Caption, ...]]:
    """The shipped prompts, by tag."""
    text = files("dimo_scenes").joinpath("evaluation.jsonl").read_text()
    records = [json.loads(line) for line in text.splitlines()]
    return {tag: tuple(parse(r["prompt"]) for r in records if r["tag"] == tag) for tag in TAGS}


def balanced_captions(count: int) -> list[Caption]:
    """So many of the shipped prompts, the tags in turn; each tag begins anew when it has no more."""
    shipped = evaluation_captions()
    found = []
    for i in range(count):
        turn, tag = divmod(i, len(TAGS))
        found.append(shipped[TAGS[tag]][turn % len(shipped[TAGS[tag]])])
    return found


def _captions(tag: str) -> Iterator[Caption]:
    choices = Choices(everything=True)
    if tag in ("single_object", "colors"):
        for digit in range(10):
            if tag == "single_object":
                yield from (Caption(digits=(digit,), phrasing=p) for p in range(len(PLAIN)))
            else:
                for c in choices.colours(digit):
                    yield from (
                        Caption(digits=(digit,), colours=(c,), phrasing=p) for p in range(len(COLOURED))
                    )
        return
    for digits in choices.pairs():
        for colours in choices.two_colours(digits) if tag == "color_attr" else ((),):
            for relation in relations(ordered=tag == "position"):
                for phrasing in range(len(COLOURED if colours else PLAIN)):
                    yield Caption(digits=digits, colours=colours, phrasing=phrasing, relation=relation)
