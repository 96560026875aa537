"""The text, and how it is divided: ``Scripture``."""

import functools
import gzip
from collections.abc import Sequence
from importlib.resources import files

import attrs
import torch

from dimo_core.choice import Choice
from dimo_core.draws import permutation
from dimo_core.errors import UsageError
from dimo_core.sources import Data, Examples
from dimo_core.suggestions import EvaluationPlan
from dimo_text.scripture.books import KIND_OF, KINDS

SPLITS = ("teacher", "reader", "reference")
"""Who may see a part: the teacher trains on its own, the reader on its own, and nothing on the reference."""

DEAL = (0, 1, 0, 0, 1, 0, 2, 0, 0, 1)
"""The parts of ten chapters of one kind."""

FILE = "scripture.tsv.gz"


@attrs.frozen
class Chapter:
    """A chapter.

    Attributes:
        part: Index into ``SPLITS``.
        kind: Index into ``KINDS``.
        name: Book and number, such as ``Ge 1``.
        text: Its verses, joined by spaces, in small letters.
    """

    part: int
    kind: int
    name: str
    text: str


def parts_of(names: Sequence[str], *, seed: int = 0) -> list[int]:
    """The part of each chapter: those of each kind are shuffled and dealt out in tens.

    Six are the teacher's, three the reader's, and one is held out.

    Args:
        names: Book and number of each chapter.
        seed: Of the shuffling.
    """
    parts, kinds = [0] * len(names), [KIND_OF[name.partition(" ")[0]] for name in names]
    for kind in range(len(KINDS)):
        members = [i for i, own in enumerate(kinds) if own == kind]
        for place, i in enumerate(permutation(seed, 0, len(members), "scripture", kind)):
            parts[members[i]] = DEAL[place % len(DEAL)]
    return parts


@functools.cache
def chapters() -> tuple[Chapter, ...]:
    """All chapters in their order, from the shipped file: part, name and text of each, divided by tabs."""
    lines = gzip.decompress(files(__package__).joinpath(FILE).read_bytes()).decode().splitlines()
    found = [line.split("\t") for line in lines]
    return tuple(
        Chapter(SPLITS.index(part), KIND_OF[name.partition(" ")[0]], name, text.lower())
        for part, name, text in found
    )


@attrs.frozen(kw_only=True)
class Scripture(Data):
    """The King James Version of the Bible, in small letters (in the public domain, shipped in the package).

    A document is a chapter, and its class the kind of its book: law, history, poetry, prophets, gospels (with
    Acts), letters (with Revelation).
    """

    def splits(self) -> Sequence[str]:
        """``teacher`` (six tenths of the chapters of each kind), ``reader`` (three) and ``reference``."""
        return SPLITS

    def load(self, split: str) -> Examples:
        """Read one part.

        Raises:
            UsageError: for an unknown split.
        """
        if split not in SPLITS:
            raise UsageError(f"data 'scripture' has no split {split!r}. Known: {', '.join(SPLITS)}.")
        found = [chapter for chapter in chapters() if chapter.part == SPLITS.index(split)]
        return Examples(
            lines=tuple(chapter.text for chapter in found),
            labels=torch.tensor([chapter.kind for chapter in found]),
            classes=KINDS,
        )

    def evaluation(self) -> EvaluationPlan:
        """Judged by a reader, and against text, that no teacher saw."""
        return EvaluationPlan(
            data=Choice("scripture"),
            split="reference",
            floor_split="teacher",
            metrics=(Choice("ngrams"), Choice("entropy"), Choice("reading")),
            best="perplexity",
            samples=500,
            steps=(64, 32, 16, 8, 4, 2, 1),
            sampler=Choice("mdlm"),
            shown=("perplexity", "entropy", "words", "kind", "mauve", "ngram_1", "ngram_2", "ngram_3"),
        )
