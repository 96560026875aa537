"""Text of others, before people see it: on one line, short, and without passwords.

Whatever reaches a terminal, a log or a label goes through here, in the few places where it is written; so
nobody else need think of it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

LINE = 2000
"""The most characters of a line of a log or of an error."""

MASK = "***"
"""Stands for what is secret in a URL."""

_USER = re.compile(r"(?<=://)[^/\s?#'\"]*@")
_QUERY = re.compile(
    r"""(?ix) ([?&;] (?: x-(?:amz|goog|oss|cos)-[\w-]+ | key | key-pair-id | policy
        | \w*(?:token|secret|access_?key(?:_?id)?|signature)
        | (?:[\w.-]*[_.-])?(?:sig|secret|token|passw(?:or)?d|pwd|api_?key|credentials?|auth(?:orization)?)
    ) =) [^&;\#\s'"<>]+"""
)
_JOINERS = "\u200c\u200d"
"""Invisible, and part of words and of emoji."""


def steps_of(count: int) -> str:
    """``1 step``, ``4 steps``."""
    return f"{count} step" if count == 1 else f"{count} steps"


def passes_of(count: int) -> str:
    """``1 forward pass``, ``4 forward passes``."""
    return f"{count} forward pass" if count == 1 else f"{count} forward passes"


def printable(text: str, most: int = LINE) -> str:
    """Text on one line, without signs that are none; of a long one its beginning and its end.

    Args:
        text: Of anybody.
        most: Characters that are left.
    """
    if len(text) > most:
        cut = f" ... ({len(text):,} characters) ... "
        text = f"{text[: most * 2 // 3]}{cut}{text[-(most // 3) :]}"
    text = re.sub(r"[^\S ]+", " ", text)
    return "".join(c if c.isprintable() or c in _JOINERS else ascii(c)[1:-1] for c in text)


def masked(data: Any) -> Any:
    """Text, or nested plain data, without user names, passwords, tokens and signatures of URLs.

    What has neither is as it was, and so is what was masked before.
    """
    if isinstance(data, str):
        return _QUERY.sub(rf"\1{MASK}", _USER.sub(f"{MASK}@", data))
    if isinstance(data, Mapping):
        return {masked(key): masked(value) for key, value in data.items()}
    if isinstance(data, Sequence) and not isinstance(data, bytes | bytearray):
        return [masked(value) for value in data]
    return data


def is_masked(data: Any) -> bool:
    """Whether nested plain data hold a URL whose secrets were left out."""
    if isinstance(data, str):
        return f"://{MASK}@" in data or any(found[0].endswith(f"={MASK}") for found in _QUERY.finditer(data))
    if isinstance(data, Mapping):
        return any(map(is_masked, data.values()))
    return isinstance(data, Sequence) and not isinstance(data, bytes) and any(map(is_masked, data))


def shown(text: str, most: int = LINE) -> str:
    """What people may see of a text: ``printable``, and ``masked``."""
    return printable(masked(text), most)


def log_filter(record: Any) -> bool:
    """A filter of loguru that lets every line pass, as people may see it."""
    record["message"] = shown(record["message"])
    return True
