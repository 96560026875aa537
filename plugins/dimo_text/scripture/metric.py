"""What the reader makes of samples: ``ReadingMetrics``."""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import attrs
import torch
from attrs import validators as v
from jaxtyping import Float, Int
from torch import Tensor

from dimo_core.draws import permutation
from dimo_core.errors import UsageError
from dimo_core.metric import Metric, Samples
from dimo_core.teacher import Teacher
from dimo_text.mauve import histogram, mauve
from dimo_text.scripture.books import KINDS
from dimo_text.scripture.data import chapters
from dimo_text.scripture.pieces import END
from dimo_text.scripture.reader import Reading, fingerprint, read

WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")

ROUNDS = 20
"""Of Lloyd's algorithm."""


@functools.cache
def real_words() -> frozenset[str]:
    """Every word of the text."""
    return frozenset(word for chapter in chapters() for word in WORD.findall(chapter.text))


def share_of_words(texts: Sequence[str], known: frozenset[str]) -> float:
    """Share of the words of some texts that are known.

    Those at an edge of a text, which may be cut, do not count.

    Args:
        texts: In small letters.
        known: The words there are.
    """
    whole = [
        match[0]
        for text in (text.replace(END, " ") for text in texts)
        for match in WORD.finditer(text)
        if match.start() > 0 and match.end() < len(text)
    ]
    return sum(word in known for word in whole) / max(1, len(whole))


@attrs.frozen(kw_only=True)
class ReadingMetrics(Metric):
    """Whether samples read as the text does, by a small language model that never saw the teacher's part.

    ``perplexity``: exp of the reader's mean -log p of a token, after it has made its own tokens of the text.
    It says nothing by itself, as repetition lowers it: compare at equal ``entropy``. ``words``: share of what
    words occur in the text. ``kind``: share of samples whose kind the reader tells as it was asked for.
    ``mauve``: MAUVE* (arXiv 2102.01454, 2212.14578) in the reader's features: 1 for the same distribution.

    Attributes:
        clusters: Of k-means, for MAUVE*.
        most: Samples that are read, and rows of the reference; a random part where there are more, always the
            same, as every n-th sample may be of one kind.
    """

    better: ClassVar[Mapping[str, Literal["larger", "smaller"]]] = {
        "words": "larger",
        "kind": "larger",
        "mauve": "larger",
    }
    needs: ClassVar[frozenset[str]] = frozenset({"conditions", "tokens"})

    clusters: int = attrs.field(default=40, validator=v.ge(2))
    most: int = attrs.field(default=500, validator=v.ge(2))

    @property
    def fingerprint(self) -> str:
        """That of the reader."""
        return fingerprint()

    def compute(self, samples: Samples, reference: Samples | None, teacher: Teacher) -> Mapping[str, float]:
        """``perplexity``, ``words`` and ``mauve``, and ``kind`` for a teacher of these kinds.

        Raises:
            UsageError: without a reference, or for samples that are no text.
        """
        if reference is None:
            raise UsageError("'reading' compares with real text: the evaluation plan names no data")
        samples = self._read(samples)
        texts = texts_of(samples, teacher)
        ours, real = read(texts), _again(texts_of(self._read(reference), teacher))
        numbers = {
            "perplexity": ours.perplexity,
            "words": share_of_words(texts, real_words()),
            "mauve": similarity(ours.features, real.features, self.clusters),
        }
        if teacher.conditioning.classes == KINDS:
            asked = torch.tensor([int(c) for c in samples.conditions])
            numbers["kind"] = float((ours.kinds == asked).double().mean())
        return numbers

    def _read(self, samples: Samples) -> Samples:
        """Those that are read."""
        return samples.take(sorted(permutation(0, 0, len(samples), "reading")[: self.most]))


@functools.lru_cache(maxsize=1)
def _again(texts: tuple[str, ...]) -> Reading:
    """What the reader makes of the reference, which is the same for all rows of a table."""
    return read(texts)


def texts_of(samples: Samples, teacher: Teacher) -> tuple[str, ...]:
    """The texts of samples, in small letters.

    Raises:
        UsageError: when they are no text.
    """
    if samples.tokens is None:
        raise UsageError("the metric 'reading' reads text, and these samples are none")
    texts = teacher.texts(samples.tokens, teacher.encode_conditions(samples.conditions))
    return tuple(map(str.lower, texts))


def similarity(a: Float[Tensor, "N D"], b: Float[Tensor, "M D"], clusters: int) -> float:
    """MAUVE* of two sets of features: that of the shares of their clusters, 1/2 added to each count.

    Args:
        a: Features.
        b: Others.
        clusters: Of k-means on both sets, each in equal numbers.
    """
    count = min(len(a), len(b))
    both = torch.cat(
        [part[torch.tensor(permutation(0, i, len(part), "mauve"))[:count]] for i, part in enumerate((a, b))]
    )
    number = clustered(both, min(clusters, count))
    size = int(number.max()) + 1
    p, q = (histogram(part.bincount(minlength=size), 0.5) for part in number.split(count))
    return mauve(p, q)


def clustered(x: Float[Tensor, "N D"], clusters: int) -> Int[Tensor, " N"]:
    """The cluster of each row, by k-means; each first centre is the row farthest from those before it.

    Args:
        x: Rows.
        clusters: How many at most.
    """
    centres = x[:1]
    for _ in range(clusters - 1):
        far = torch.cdist(x, centres).amin(1).argmax()
        centres = torch.cat([centres, x[far : far + 1]])
    for _ in range(ROUNDS):
        number = torch.cdist(x, centres).argmin(1)
        one_hot = torch.nn.functional.one_hot(number, len(centres)).to(x.dtype)
        sums, counts = one_hot.T @ x, one_hot.sum(0)[:, None]
        centres = torch.where(counts > 0, sums / counts.clamp_min(1), centres)
    return torch.cdist(x, centres).argmin(1)
