"""The metric ``answers``: whether samples answer their prompts."""

import re
from collections.abc import Mapping
from decimal import Decimal
from functools import cached_property
from typing import ClassVar, Literal

import attrs
from attrs import validators as v

from dimo_core.errors import UsageError
from dimo_core.files.cache import file_sha256, local_copy
from dimo_core.files.prompts import read_prompts
from dimo_core.metric import Metric, Samples
from dimo_core.teacher import Teacher
from dimo_text.metric import tokens_of

Kind = Literal["number", "text"]

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")
MARKED = re.compile(r"####(.*)|\\boxed\{([^{}]*)\}", re.DOTALL)
"""Where a text says its answer: behind ####, or in a box."""

TOGETHER = 256
"""Samples that are turned into text at a time."""


def number_of(text: str) -> Decimal | None:
    """The number that a text gives as its answer: the last one, of what is marked if anything is.

    Args:
        text: Such as ``"6 times 7 is #### 42"``.
    """
    marked = MARKED.findall(text)
    for place in [" ".join(pair) for pair in reversed(marked)] + [text]:
        if found := NUMBER.findall(place):
            return Decimal(found[-1].replace(",", ""))
    return None


@attrs.frozen(kw_only=True, slots=False)
class Answers(Metric):
    """``accuracy``: share of the samples whose answer is that of a file.

    Attributes:
        path: JSON lines with ``prompt`` and ``answer``, a path or fsspec URL: an answer for every prompt that
            is sampled.
        kind: What must be the same: the last number of both texts, where one behind #### or in a box
            counts first; or the whole texts, but for white space.
    """

    better: ClassVar[Mapping[str, Literal["larger", "smaller"]]] = {"accuracy": "larger"}
    needs: ClassVar[frozenset[str]] = frozenset({"tokens", "conditions"})

    path: str
    kind: Kind = attrs.field(default="number", validator=v.in_(("number", "text")))

    @property
    def fingerprint(self) -> str:
        """Of the file."""
        return file_sha256(local_copy(self.path))

    @cached_property
    def wanted(self) -> Mapping[str, str]:
        """The answer of each prompt.

        Raises:
            UsageError: for a line without one, and for a number that is none.
        """
        found = {}
        for prompt in read_prompts([self.path]):
            answer = (prompt.record or {}).get("answer")
            if not isinstance(answer, str | int | float):
                raise UsageError(
                    f"{self.path}: prompt {prompt.text[:60]!r} has no answer. Expected JSON lines with "
                    "'prompt' and 'answer'."
                )
            if self.kind == "number" and number_of(str(answer)) is None:
                raise UsageError(
                    f"{self.path}: the answer {str(answer)[:60]!r} has no number. Choose kind: text"
                )
            found[prompt.text] = str(answer)
        return found

    def compute(self, samples: Samples, reference: Samples | None, teacher: Teacher) -> Mapping[str, float]:
        """``accuracy``.

        Raises:
            UsageError: for prompts of which the file has no answer, and samples that are no text.
        """
        raw, tokens = samples.conditions, tokens_of(samples, "these samples")
        prompts = [teacher.describe(one) for one in raw]
        if strange := [prompt for prompt in prompts if prompt not in self.wanted]:
            raise UsageError(f"{self.path} has no answer for prompt {strange[0][:60]!r}")
        right = 0
        for i in range(0, len(raw), TOGETHER):
            some = slice(i, i + TOGETHER)
            texts = teacher.texts(tokens[some], teacher.encode_conditions(raw[some]))
            right += sum(map(self._same, texts, (self.wanted[prompt] for prompt in prompts[some])))
        return {"accuracy": right / len(raw)}

    def _same(self, text: str, wanted: str) -> bool:
        if self.kind == "number":
            return number_of(text) == number_of(wanted)
        return text.split() == wanted.split()
