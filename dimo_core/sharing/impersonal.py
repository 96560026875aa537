"""Plain data as it may be shared: without the places where files lie on somebody's machine."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from dimo_core.texts import masked

LONGEST = 4096
"""Characters of a path."""


def impersonal(data: Any) -> Any:
    """Nested plain data in which a path of this machine is its last part; URLs lose their secrets.

    Args:
        data: Options, provenance, a protocol.
    """
    if isinstance(data, str):
        return masked(last_part(data))
    if isinstance(data, Mapping):
        return {impersonal(key): impersonal(value) for key, value in data.items()}
    if isinstance(data, Sequence) and not isinstance(data, bytes | bytearray):
        return [impersonal(value) for value in data]
    return data


def last_part(text: str) -> str:
    """The last part of a path that begins at a root or a home folder; any other text as it is."""
    path = text.removeprefix("file://").removeprefix("local://")
    if "\n" in path or "://" in path or len(path) > LONGEST:
        return text
    if path.startswith(("/", "~")):
        return PurePosixPath(path).name or "folder"
    windows = PureWindowsPath(path)
    return windows.name if windows.drive and windows.root else text
