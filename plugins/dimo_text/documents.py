"""Documents with classes, and how they are divided: what files and shards of text share."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import attrs
import torch
from attrs import validators as v
from loguru import logger

from dimo_core.choice import Choice
from dimo_core.draws import permutation
from dimo_core.errors import UsageError
from dimo_core.sources import Data, Examples
from dimo_core.suggestions import EvaluationPlan

SPLITS = ("train", "held-out")
"""Names of the parts."""

CLASS = "text"
"""The one class of documents that have none."""

NAMED = 20
"""Classes that the log names."""


@attrs.frozen
class Document:
    """A text.

    Attributes:
        text: What it says.
        label: Name of its class; empty for none.
        source: What people find it by.
    """

    text: str
    label: str
    source: str


@attrs.frozen(kw_only=True)
class TextData(Data):
    """Documents in memory, of which a share is held out.

    Attributes:
        held_out: Share of the documents of each class in the split ``held-out``: one at least of several.
        seed: Seed of that choice.
    """

    registered: ClassVar[str]

    held_out: float = attrs.field(default=0.1, converter=float, validator=[v.ge(0), v.lt(1)])
    seed: int = attrs.field(default=0, validator=v.ge(0))

    @abstractmethod
    def every(self) -> Iterator[Document]:
        """All documents, in a fixed order.

        Raises:
            UsageError: when one cannot be read.
        """

    def splits(self) -> Sequence[str]:
        """``train`` and ``held-out``."""
        return SPLITS

    def load(self, split: str) -> Examples:
        """Read one part: documents as lines, with labels; those without a class are of the class ``text``.

        Raises:
            UsageError: for an unknown or empty split, texts that cannot be read, or only some with a class.
        """
        if split not in SPLITS:
            raise UsageError(f"these data have no split {split!r}. Known: {', '.join(SPLITS)}.")
        found = [document for document in self.every() if document.text.strip()]
        classes = tuple(sorted({document.label for document in found}))
        if "" in classes and len(classes) > 1:
            bare = next(document.source for document in found if not document.label)
            raise UsageError(
                f"{bare} has no class, and others have, such as {classes[1]!r}: give all documents one, or "
                "none."
            )
        labels = [classes.index(document.label) for document in found]
        part = self._part(labels, split)
        if not part:
            raise UsageError(
                f"the split {split!r} of {len(found)} documents is empty: change held_out "
                f"({self.held_out:g}), or divide them into more, such as paragraphs or lines."
            )
        names = classes if classes != ("",) else (CLASS,)
        if split == SPLITS[0] and len(names) > 1:
            more = ", ..." if len(names) > NAMED else ""
            logger.info("{} classes of texts: {}", len(names), ", ".join(names[:NAMED]) + more)
        return Examples(
            lines=tuple(found[i].text for i in part),
            labels=torch.tensor([labels[i] for i in part]),
            classes=names,
        )

    def _part(self, labels: Sequence[int], split: str) -> list[int]:
        """Numbers of the documents in a split, in order."""
        chosen = set[int]()
        for label in sorted(set(labels)):
            members = [i for i, own in enumerate(labels) if own == label]
            count = max(int(self.held_out * len(members)), int(self.held_out > 0 and len(members) > 1))
            order = permutation(self.seed, 0, len(members), "held-out", label)
            chosen |= {members[i] for i in order[:count]}
        return [i for i in range(len(labels)) if (i in chosen) == (split == "held-out")]

    def evaluation(self) -> EvaluationPlan:
        """Entropy of the samples, and their n-grams against those of the documents that no teacher saw."""
        return suggested(self, self.registered, SPLITS[0])


def suggested(data: Data, name: str, floor: str) -> EvaluationPlan:
    """The evaluation of teachers of such data: entropy, and n-grams against those of held-out text.

    Args:
        data: The data; what differs of its options from their defaults is written down.
        name: Under which it is registered.
        floor: The split that is judged like a model's samples; empty for none.
    """
    options: dict[str, Any] = {}
    for field in attrs.fields_dict(type(data)).values():  # type: ignore[arg-type]
        value = getattr(data, field.name)
        if value != field.default:
            options[field.name] = list(value) if isinstance(value, tuple) else value
    return EvaluationPlan(
        data=Choice(name, options),
        split=SPLITS[1],
        floor_split=floor,
        metrics=(Choice("ngrams"), Choice("entropy")),
        best="ngram_3",
        samples=500,
        steps=(64, 32, 16, 8, 4, 2, 1),
        sampler=Choice("mdlm"),
        shown=("ngram_1", "ngram_2", "ngram_3", "entropy"),
    )
