"""From text to the reader's tokens: the longest piece of a list, again and again."""

import functools
import json
import re
from collections.abc import Sequence
from importlib.resources import files

PIECES = "pieces.json"


@functools.cache
def pieces() -> tuple[str, ...]:
    """The shipped list: the empty text, which ends a document, what is unknown, and the others."""
    return tuple(json.loads(files(__package__).joinpath(PIECES).read_bytes()))


@functools.cache
def _pattern() -> tuple[re.Pattern[str], dict[str, int]]:
    numbers = {piece: number for number, piece in enumerate(pieces())}
    longest = sorted(pieces()[1:], key=lambda piece: (-len(piece), piece))
    return re.compile("|".join(map(re.escape, longest)) + "|.", re.DOTALL), numbers


def encoded(text: str) -> list[int]:
    """The numbers of the pieces of a text; characters that no piece has are unknown."""
    pattern, numbers = _pattern()
    return [numbers.get(piece, 1) for piece in pattern.findall(text)]


