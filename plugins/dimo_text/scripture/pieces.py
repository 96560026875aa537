"""From text to the reader's tokens: of the pieces of a list that a text goes on with, always the longest."""

import functools
import json
import re
from importlib.resources import files

PIECES = "pieces.json"

END = "<|endoftext|>"
"""How the end of a document is shown in samples."""

UNKNOWN = 1
"""The number of what stands for characters that no piece begins with."""


@functools.cache
def pieces() -> tuple[str, ...]:
    """The shipped list: the empty text, which ends a document, what is unknown, and the others."""
    return tuple(json.loads(files(__package__).joinpath(PIECES).read_bytes()))


@functools.cache
def _pattern() -> tuple[re.Pattern[str], dict[str, int]]:
    numbers = {piece or END: number for number, piece in enumerate(pieces())}
    longest = sorted(numbers, key=lambda piece: (-len(piece), piece))
    return re.compile("|".join([*map(re.escape, longest), "."]), re.DOTALL), numbers


def encoded(text: str) -> list[int]:
    """The numbers of the pieces of a text."""
    pattern, numbers = _pattern()
    return [numbers.get(piece, UNKNOWN) for piece in pattern.findall(text)]
