"""Weight files written by others, read without executing anything in them."""

from typing import Any

import attrs
from torch import Tensor


@attrs.frozen(eq=False)
class ForeignFile:
    """What a foreign file holds.

    Attributes:
        source: Path or URL it was read from.
        sha256: Digest of the file.
        tree: Its content: dicts, lists, numbers ...
        inert: Dotted names of the classes and functions that it asked for and did not get.
    """

    source: str
    sha256: str
    tree: Any
    inert: tuple[str, ...]

    def state_dict(self) -> dict[str, Tensor]:
        """The weights in it."""
        raise NotImplementedError


def read_foreign(url: str) -> ForeignFile:
    """Read a safetensors or torch file."""
    raise NotImplementedError
