"""Data: tokens that ``dimo sample`` drew, with their conditions."""

import json
from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any

import attrs
import torch

from dimo_core.errors import UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.urls import from_anywhere
from dimo_core.sources import Data, Examples

RECORDS = "samples.jsonl"


@attrs.frozen(kw_only=True)
class Samples(Data):
    """Samples of a teacher in many steps, as ``dimo sample --out FOLDER`` left them.

    Attributes:
        path: That folder, a path or fsspec URL.
    """

    path: str = attrs.field(converter=from_anywhere)

    def splits(self) -> Sequence[str]:
        """``all``."""
        return ("all",)

    def load(self, split: str) -> Examples:
        """Tokens with the conditions that they were drawn for, in the order of the file.

        Raises:
            UsageError: when the folder holds no samples, or a line of its record is damaged.
        """
        folder = Folder(self.path)
        try:
            lines = folder.read(RECORDS).splitlines()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UsageError(
                f"no samples in {self.path!r}: there is no {RECORDS}. Make some with "
                f"`dimo sample --teacher NAME --count N --out {quote(self.path)}`."
            ) from error
        records = [self._record(number, line) for number, line in enumerate(lines, 1)]
        if not records:
            raise UsageError(f"{folder.path(RECORDS)} is empty: there are no samples.")
        if len(lengths := {len(record["tokens"]) for record in records}) > 1:
            raise UsageError(
                f"{folder.path(RECORDS)}: samples are of {len(lengths)} lengths; they must agree."
            )
        tokens = torch.tensor([record["tokens"] for record in records])
        return Examples(tokens=tokens, texts=tuple(record["condition"] for record in records))

    def _record(self, number: int, line: bytes) -> Mapping[str, Any]:
        try:
            record = json.loads(line)
            tokens, condition = record["tokens"], record["condition"]
            if type(condition) is str and tokens and all(type(token) is int for token in tokens):
                found: Mapping[str, Any] = record
                return found
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        raise UsageError(
            f"{Folder(self.path).path(RECORDS)}, line {number}, is no sample with its tokens: it was cut or "
            "changed. Draw the samples again into another folder."
        )
