"""What is written to be read again carries a checksum of its content, so that damage is found and named.

In JSON it is an entry. In YAML, which people read and give on as a configuration, it is a comment in the first line:
a file that was cut has lost something else. The section ``teacher`` does not count: it may be edited when a
teacher was moved, and digests of the weights say whether it is still the same one.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import yaml

from dimo_core.errors import CheckpointError

SEAL = "checksum"
"""The entry of a JSON file."""

LINE = "# checksum of all but the section 'teacher' (remove this line if you edit more): "
"""The first line of a YAML file, before the checksum."""


def as_json(data: Any) -> Any:
    """Data as JSON gives it back: what is compared must not depend on whether it was stored."""
    return json.loads(json.dumps(data, default=str))


def checksum(data: Any, without: str = "") -> str:
    """The SHA-256 of plain data, in hex; neither order nor layout counts, nor the entry ``without``."""
    counted = as_json(data)
    if isinstance(counted, dict):
        counted.pop(without, None)
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()


def sealed_json(data: Mapping[str, Any]) -> bytes:
    """Plain data as indented JSON with its checksum."""
    return (json.dumps({**data, SEAL: checksum(data, SEAL)}, indent=1) + "\n").encode()


def json_of(data: bytes, source: str) -> dict[str, Any]:
    """What ``sealed_json`` was given.

    Args:
        data: Its bytes.
        source: Where they were read, for messages.

    Raises:
        CheckpointError: when they are no JSON, or not what was written.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{source} is damaged: {error}") from error
    if not isinstance(found, dict) or found.pop(SEAL, None) != checksum(found):
        raise CheckpointError(f"{source} is damaged: its content is not what was written (wrong {SEAL})")
    return found


def sealed_yaml(data: Any) -> bytes:
    """Plain data as YAML, keys in their order, with its checksum."""
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    return f"{LINE}{checksum(yaml.safe_load(text), 'teacher')}\n{text}".encode()


def yaml_of(data: bytes, source: str) -> Any:
    """Parse YAML, safely; where it has a checksum, it is compared.

    Args:
        data: Its bytes.
        source: Where they were read, for messages.

    Raises:
        CheckpointError: when they are no YAML, or not what was written.
    """
    try:
        found = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{source} is unreadable: {' '.join(str(error).split())}") from error
    first = data.partition(b"\n")[0].decode(errors="replace")
    if first.startswith(LINE) and first.removeprefix(LINE).strip() != checksum(found, "teacher"):
        raise CheckpointError(
            f"{source} is damaged, or was edited: its content is not that of the checksum in its first line. Take "
            "another copy; if you edited it, remove that line."
        )
    return found
