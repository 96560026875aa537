"""Text that does not fit in memory, of which shards are packed one by one, once: ``StreamedText``."""

from collections.abc import Sequence
from itertools import islice
from typing import ClassVar

import attrs
import torch
from attrs import validators as v

from dimo_core.errors import UsageError
from dimo_core.files.urls import expanded, state_of
from dimo_core.sources import Data, Examples, TextStream
from dimo_core.suggestions import EvaluationPlan
from dimo_text.documents import CLASS, SPLITS, suggested
from dimo_text.files import as_urls
from dimo_text.shards import documents


@attrs.frozen(kw_only=True)
class StreamedText(Data):
    """Text in tar files, JSON lines or Parquet, of which one shard at a time is in memory.

    Attributes:
        url: Path or fsspec URL of the shards, with braces and wildcards (``owt-{000..127}.jsonl``), or a list
            of these.
        held_out: The same for the split ``held-out``; null for none.
        field: Where a document's text is: the ending of a member of a tar file's sample, or a field. Null is
            ``txt`` in tar files and ``text`` elsewhere.
        label: Where the name of its class is, likewise, such as ``cls``; null for none.
        classes: The names that ``label`` has, as no shard knows those of the others; null without label.
    """

    registered: ClassVar[str] = "text-stream"

    url: str | tuple[str, ...] = attrs.field(converter=as_urls)
    held_out: str | tuple[str, ...] | None = attrs.field(
        default=None, converter=attrs.converters.optional(as_urls)
    )
    field: str | None = attrs.field(default=None, validator=v.optional(v.min_len(1)))
    label: str | None = attrs.field(default=None, validator=v.optional(v.min_len(1)))
    classes: tuple[str, ...] | None = attrs.field(
        default=None, converter=attrs.converters.optional(tuple), validator=v.optional(v.min_len(1))
    )

    def __attrs_post_init__(self) -> None:
        """Classes go with a label.

        Raises:
            ValueError: for one of both alone, and classes that are named twice.
        """
        if (self.label is None) != (self.classes is None):
            raise ValueError(
                "'label', which says where a class is, and 'classes', all their names, go together"
            )
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise ValueError(f"'classes' must differ from one another, got {list(self.classes)}")

    def splits(self) -> Sequence[str]:
        """``train``, and ``held-out`` where there is one."""
        return SPLITS[:1] if self.held_out is None else SPLITS

    @property
    def streams(self) -> bool:
        """Texts are tokenised once, into a token cache."""
        return True

    def open(self, split: str) -> "Shards":
        """Find the shards of one part.

        Raises:
            UsageError: for an unknown split, and URLs that lead nowhere.
        """
        if split not in self.splits():
            raise UsageError(f"these data have no split {split!r}. Known: {', '.join(self.splits())}.")
        urls = self.url if split == SPLITS[0] or self.held_out is None else self.held_out
        return Shards(
            shards=expanded(urls), classes=self.classes or (CLASS,), field=self.field, label=self.label
        )

    def load(self, split: str) -> Examples:
        """All documents of a part, in memory.

        Raises:
            UsageError: for an unknown split, and what cannot be read.
        """
        stream = self.open(split)
        return stream.documents(stream.shards)

    def evaluation(self) -> EvaluationPlan | None:
        """Entropy, and n-grams against those of ``held_out``; None without it."""
        return None if self.held_out is None else suggested(self, self.registered, "")


@attrs.frozen(kw_only=True)
class Shards(TextStream):
    """Shards of text.

    Attributes:
        shards: Their URLs.
        classes: Class names.
        field: Where texts are.
        label: Where classes are; None for one class.
    """

    shards: Sequence[str]
    classes: tuple[str, ...]
    field: str | None
    label: str | None

    def versions(self) -> Sequence[str]:
        """URL and state of every shard; of one that cannot be asked, the URL."""
        return [f"{url} {state_of(url)}" for url in self.shards]

    def read(self, shard: str, most: int | None = None) -> Examples:
        """Its documents but the empty ones.

        Raises:
            UsageError: for what cannot be read, and a class that was not named.
        """
        found = [d for d in islice(documents(shard, self.field, self.label), most) if d.text.strip()]
        if self.label is not None and (other := [d for d in found if d.label not in self.classes]):
            raise UsageError(
                f"{other[0].source}: the class {other[0].label!r} is none of {', '.join(self.classes)}. Name "
                "all of them with --data.classes."
            )
        labels = [0 if self.label is None else self.classes.index(d.label) for d in found]
        return Examples(
            lines=tuple(d.text for d in found),
            labels=torch.tensor(labels, dtype=torch.long),
            classes=self.classes,
        )
