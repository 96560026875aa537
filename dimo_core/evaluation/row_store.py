"""What is finished of a comparison, so that the rest can be done later, or elsewhere.

Everything here is a pure function of what was asked for, so a digest of the request is all that tells whether
a file may be used. ``rows`` holds the numbers of finished rows, ``parts`` the batches of unfinished ones:
tokens and features, no pictures.
"""

import json
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from loguru import logger
from safetensors import SafetensorError

from dimo_core.errors import CheckpointError
from dimo_core.files.folder import Folder
from dimo_core.files.weights import encode_tensors, read_tensors, sha256
from dimo_core.metric import Samples

ROWS, PARTS = "rows", "parts"
OBSERVED = "observed."


@attrs.frozen(kw_only=True, eq=False)
class Part:
    """Consecutive samples of a row.

    Attributes:
        samples: Tokens, features and logits; images only before it is written.
        passes: Forward passes a sample took.
        seconds: Time to draw the tokens.
        decoding: Time to decode the images.
        machine: Where these were measured.
    """

    samples: Samples
    passes: int
    seconds: float
    decoding: float
    machine: Mapping[str, str]


@attrs.frozen
class RowStore:
    """The finished rows and batches in the folder of a comparison.

    Attributes:
        folder: That folder.
        streamed: True writes no batches at all.
    """

    folder: Folder
    streamed: bool = False

    def row(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """What ``keep_row`` was given for this request; None when there is nothing, or it cannot be read."""
        name = f"{ROWS}/{_key(request)}.json"
        if not self.folder.exists(name):
            return None
        try:
            found = json.loads(self.folder.read(name))
            wanted = json.loads(json.dumps(request, default=str))
            if found["request"] == wanted:
                return dict(found["row"])
        except (ValueError, KeyError, TypeError):
            pass
        logger.warning("{} cannot be used: the row is computed again", self.folder.path(name))
        return None

    def keep_row(self, request: Mapping[str, Any], row: Mapping[str, Any], *, whole: bool) -> None:
        """Write the numbers of a row; its batches go when nothing of it is missing.

        Args:
            request: What was asked for.
            row: The numbers.
            whole: Whether all of them could be computed.
        """
        wanted = json.loads(json.dumps(request, default=str))
        self.folder.write_json(f"{ROWS}/{_key(request)}.json", {"request": wanted, "row": dict(row)})
        if whole:
            self.folder.remove(PARTS, _key(request))

    def clear(self) -> None:
        """Forget what no longer serves: an empty folder of batches."""
        if self.folder.exists(PARTS) and not self.folder.sub(PARTS).names():
            self.folder.remove(PARTS)

    def part(self, request: Mapping[str, Any], start: int, conditions: tuple[Any, ...]) -> Part | None:
        """The batch that begins at sample ``start``; None when it is missing, damaged, or of another request.

        Args:
            request: What was asked for.
            start: Its first sample.
            conditions: The conditions of its samples.
        """
        key = _key(request)
        name = _part(key, start)
        if not self.folder.exists(name):
            return None
        try:
            found = read_tensors(self.folder, name)
            facts = json.loads(bytes(found.pop("facts").tolist()))
            if facts["request"] != key or any(len(rows) != len(conditions) for rows in found.values()):
                raise CheckpointError(f"{self.folder.path(name)} belongs to another request")
            seen = [name for name in found if name.startswith(OBSERVED)]
            observed = {name.removeprefix(OBSERVED): found.pop(name) for name in seen}
            samples = Samples(conditions=conditions, observed=observed, **found)
        except (CheckpointError, SafetensorError, ValueError, KeyError, TypeError) as error:
            logger.warning("a finished batch cannot be used, and is drawn again: {}", error)
            return None
        known = {name: facts[name] for name in ("passes", "seconds", "decoding", "machine")}
        return Part(samples=samples, **known)

    def keep_part(self, request: Mapping[str, Any], start: int, part: Part) -> None:
        """Write a batch without its pictures, unless nothing is to be written."""
        if self.streamed:
            return
        key, s = _key(request), part.samples
        facts = {
            "request": key,
            "passes": part.passes,
            "seconds": part.seconds,
            "decoding": part.decoding,
            "machine": dict(part.machine),
        }
        tensors = {"tokens": s.tokens, "features": s.features, "logits": s.logits}
        data = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        data |= {f"{OBSERVED}{name}": rows for name, rows in s.observed.items()}
        data["facts"] = torch.tensor(list(json.dumps(facts).encode()), dtype=torch.uint8)
        self.folder.write(_part(key, start), encode_tensors(data), durable=False)


def _key(request: Mapping[str, Any]) -> str:
    """A short name for a request."""
    return sha256(json.dumps(request, sort_keys=True, default=str).encode())[:20]


def _part(key: str, start: int) -> str:
    return f"{PARTS}/{key}/{start:08d}.safetensors"
