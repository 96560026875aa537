"""What is written to be read again carries a checksum of its content, so that damage is found and named.

In JSON it is an entry. In YAML, which people read and use as a configuration, it is a comment in the first
line, which a file that was cut still has. The section ``teacher`` does not count: it may be edited when a
teacher was moved, and digests of the weights say whether it is still the same one.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import yaml

from dimo_core.errors import CheckpointError
from dimo_core.files.yaml_text import YamlFault, parsed
from dimo_core.texts import masked

SEAL = "checksum"
"""The entry of a JSON file."""

LINE = "# checksum of all but the section 'teacher' (remove this line if you edit more): "
"""The first line of a YAML file, before the checksum."""


def as_json(data: Any) -> Any:
    """Data as a stored file gives them back: what is compared must not depend on whether it was stored."""
    return masked(json.loads(json.dumps(data, default=str)))


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
        found = parsed(data)
    except YamlFault as error:
        raise CheckpointError(f"{source} is unreadable: {error}") from error
    first = data.partition(b"\n")[0].decode(errors="replace")
    if first.startswith(LINE) and first.removeprefix(LINE).strip() != checksum(found, "teacher"):
        raise CheckpointError(
            f"{source} is damaged, or was edited: its content has not the checksum of its first line. Take "
            "another copy; if you edited it, remove that line."
        )
    return found


def card_of(
    data: bytes, source: str, form: str, entries: Mapping[str, type | tuple[type, ...]]
) -> dict[str, Any]:
    """The YAML file that describes a folder of weights.

    Args:
        data: Its bytes.
        source: Where they were read, for messages.
        form: Its entry ``format``, such as ``dimo-maskgit/1``.
        entries: What else it must hold, by key; ``sha256.x`` is the entry x of the section ``sha256``.

    Raises:
        CheckpointError: when it is damaged, of another format, or lacks an entry.
    """
    card = yaml_of(data, source)
    if not isinstance(card, dict) or card.get("format") != form:
        what = form.partition("/")[0].removeprefix("dimo-")
        raise CheckpointError(f"{source} is not a {what} of the format {form!r}")
    for key, kind in entries.items():
        section, _, name = key.partition(".")
        found = card.get(section)
        if name:
            found = found.get(name) if isinstance(found, dict) else None
        if not isinstance(found, kind):
            state = "lacks the entry" if found is None else "is damaged at the entry"
            raise CheckpointError(f"{source} {state} {key!r}: take another copy, or make the folder again")
    return card
