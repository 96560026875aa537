"""What is finished of many samples, so that the rest can be drawn later, or elsewhere.

Everything here is a pure function of what was asked for, so a digest of the request is all that tells whether
a record may be used. ``read`` and ``write`` are the one place where records are read and written.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from jaxtyping import UInt8
from loguru import logger
from torch import Tensor

from dimo_core.errors import CheckpointError
from dimo_core.evaluation.protocols import digest
from dimo_core.files.folder import Folder
from dimo_core.files.state import as_json, json_of, sealed_json
from dimo_core.files.weights import digest_tensors, encode_tensors, read_tensors
from dimo_core.metric import TENSORS, Samples, joined_samples
from dimo_core.tokens import Tokens

ROWS, BATCHES = "rows", "batches"
"""The numbers of finished rows; the finished batches of unfinished ones: tokens and features, no pictures."""

DIGEST = "tensors_sha256"
"""The fact that is the digest of a record's tensors."""

OBSERVED, FACTS = "observed.", ("passes", "seconds", "decoding", "machine", "kept")


@attrs.frozen(kw_only=True, eq=False)
class Drawn:
    """Consecutive samples on the CPU, and what they cost.

    Attributes:
        start: The first one's number.
        samples: Conditions, tokens and what else is known of them; images only as long as they are needed.
        passes: Forward passes a sample took.
        seconds: Time to draw the tokens, decoding not counted.
        decoding: Time to decode the images.
        machine: Where these were measured.
        kept: Digest of the files in which they are kept; empty for none.
        found: Whether they were there before.
    """

    start: int
    samples: Samples
    passes: int
    seconds: float = 0.0
    decoding: float = 0.0
    machine: Mapping[str, str] = attrs.field(factory=dict)
    kept: str = ""
    found: bool = False

    @property
    def tokens(self) -> Tokens:
        """``[N, L]``."""
        assert self.samples.tokens is not None
        return self.samples.tokens

    @property
    def images(self) -> UInt8[Tensor, "N C H W"] | None:
        """Decoded images; None where the teacher decodes none, or they are not in memory."""
        return self.samples.images

    @classmethod
    def joined(cls, batches: Sequence["Drawn"]) -> "Drawn":
        """Consecutive batches as one."""
        return cls(
            start=batches[0].start,
            samples=joined_samples([batch.samples for batch in batches]),
            passes=max(batch.passes for batch in batches),
            seconds=sum(batch.seconds for batch in batches),
            decoding=sum(batch.decoding for batch in batches),
        )


@attrs.frozen
class Store:
    """Records in a folder.

    Attributes:
        folder: That folder.
        streamed: True keeps no batches at all.
    """

    folder: Folder
    streamed: bool = False

    def read(self, name: str) -> dict[str, Any] | None:
        """A record, its tensors under ``tensors``; None when there is none.

        Raises:
            CheckpointError: when it is damaged.
        """
        if not self.folder.exists(name):
            return None
        if not name.endswith(".safetensors"):
            return self.folder.read_json(name)
        tensors, source = read_tensors(self.folder, name), self.folder.path(name)
        facts = json_of(bytes(tensors.pop("facts", torch.empty(0)).byte().flatten().tolist()), source)
        if facts.pop(DIGEST, None) != digest_tensors(tensors):
            raise CheckpointError(f"{source} is damaged: its tensors are not those that were written")
        return {**facts, "tensors": tensors}

    def write(self, name: str, facts: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
        """Write a record whole, with checksums: plain data as JSON, with tensors as safetensors.

        Args:
            name: Its file, which ends with ``.json`` or ``.safetensors``.
            facts: Plain data.
            tensors: What is easily made again, so that nobody waits until it is on the disk.
        """
        if tensors is None:
            self.folder.write_json(name, facts)
            return
        sealed = sealed_json({**facts, DIGEST: digest_tensors(tensors)})
        data = torch.tensor(list(sealed), dtype=torch.uint8)
        self.folder.write(name, encode_tensors({**tensors, "facts": data}), durable=False)

    def purpose(self, name: str) -> dict[str, Any] | None:
        """The record of what the folder is for, which nobody can make again; None when there is none yet.

        Raises:
            CheckpointError: when it is damaged.
        """
        try:
            return self.read(name)
        except CheckpointError as error:
            raise CheckpointError(
                f"{error}. What lies beside it cannot be used: choose another --out."
            ) from error

    def claim(self, name: str, facts: Mapping[str, Any]) -> list[str]:
        """Write down what the folder is for; where that is done already, the names of what differs.

        Args:
            name: The file of the record.
            facts: What is asked for.
        """
        wanted, before = as_json(facts), self.purpose(name)
        if before is None:
            self.write(name, wanted)
            return []
        return sorted(key for key in {*before, *wanted} if before.get(key) != wanted.get(key))

    def usable(self, name: str, request: Mapping[str, Any], otherwise: str) -> dict[str, Any] | None:
        """The record of a request; None when it is missing, damaged, or of another request.

        Args:
            name: Its file.
            request: What was asked for.
            otherwise: What is done without it, for the warning.
        """
        try:
            found = self.read(name)
            if found is None or found.get("request") == as_json(request):
                return found
            raise CheckpointError(f"{self.folder.path(name)} belongs to another request")
        except CheckpointError as error:
            logger.warning("{}; it cannot be used, and {}", error, otherwise)
            return None

    def row(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """What ``keep_row`` was given for this request; None when there is nothing, or it cannot be read."""
        found = self.usable(f"{ROWS}/{digest(request)}.json", request, "the row is computed again")
        return None if found is None else found.get("row")

    def keep_row(self, request: Mapping[str, Any], row: Mapping[str, Any], *, whole: bool) -> None:
        """Write the numbers of a row; its batches go when nothing of it is missing.

        Args:
            request: What was asked for.
            row: The numbers.
            whole: Whether all of them could be computed.
        """
        key = digest(request)
        self.write(f"{ROWS}/{key}.json", {"request": as_json(request), "row": dict(row)})
        if whole:
            self.folder.remove(BATCHES, key)
        if self.folder.exists(BATCHES) and not self.folder.sub(BATCHES).names():
            self.folder.remove(BATCHES)

    def starts(self, request: Mapping[str, Any]) -> set[int]:
        """The first sample of each batch that is there."""
        names = self.folder.sub(BATCHES, digest(request)).names()
        return {int(name[:8]) for name in names if re.fullmatch(r"\d{8}\.safetensors", name)}

    def batch(self, request: Mapping[str, Any], start: int, conditions: tuple[Any, ...]) -> Drawn | None:
        """The batch that begins at sample ``start``; None when it is missing, damaged, or of another request.

        Args:
            request: What was asked for.
            start: Its first sample.
            conditions: The conditions of its samples.
        """
        asked = {**request, "start": start}
        found = self.usable(_batch(request, start), asked, "a finished batch is drawn again")
        tensors = {} if found is None else found["tensors"]
        if found is None or "tokens" not in tensors:
            return None
        if any(len(rows) != len(conditions) for rows in tensors.values()):
            return None
        seen = [name for name in tensors if name.startswith(OBSERVED)]
        observed = {name.removeprefix(OBSERVED): tensors.pop(name) for name in seen}
        samples = Samples(conditions=conditions, observed=observed, **tensors)
        return Drawn(start=start, samples=samples, found=True, **{name: found[name] for name in FACTS})

    def keep(self, request: Mapping[str, Any], batch: Drawn) -> None:
        """Write a batch without its pictures, unless nothing is to be written."""
        if self.streamed:
            return
        s, asked = batch.samples, {**request, "start": batch.start}
        tensors = {name: getattr(s, name) for name in TENSORS if name != "images"}
        data = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        data |= {f"{OBSERVED}{name}": rows for name, rows in s.observed.items()}
        facts = {name: getattr(batch, name) for name in FACTS}
        self.write(_batch(request, batch.start), {"request": as_json(asked), **facts}, data)


def _batch(request: Mapping[str, Any], start: int) -> str:
    return f"{BATCHES}/{digest(request)}/{start:08d}.safetensors"
