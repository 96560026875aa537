"""From text to tokens and back: what is listed in a file, or byte pairs by the library ``tokenizers``."""

import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import attrs
import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from dimo_core.errors import CheckpointError, MissingLibraryError, UsageError
from dimo_core.files.cache import is_there, local_copy
from dimo_core.files.folder import Folder
from dimo_core.libraries import FAILURES, import_beside_torchvision

END = "<|endoftext|>"
"""How the end of a document is shown, and GPT-2's name of its one special token."""

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
"""Stands for characters that a list does not have."""

CHARACTERS, PIECES = "characters.json", "pieces.json"
WHOLE, VOCABULARY, MERGES = "tokenizer.json", "vocab.json", "merges.txt"

LAYOUTS = ((CHARACTERS,), (PIECES,), (WHOLE,), (VOCABULARY, MERGES))
"""The files of a tokenizer, in the order in which they are looked for."""

LOOKED_FOR = f"{CHARACTERS}, {PIECES}, {WHOLE}, or {VOCABULARY} and {MERGES}"

MOST = 4096
"""Characters of a fitted list at most; what is rarer is unknown."""


class Tokenizer(ABC):
    """Text to ids 0 .. V-1 and back.

    Attributes:
        framed: Whether every row that a network is trained on begins and ends with ``end``.
        files: Name and content of the files that it was made of.
    """

    framed: ClassVar[bool]
    files: Mapping[str, bytes]

    @property
    @abstractmethod
    def codes(self) -> int:
        """Vocabulary size V."""

    @property
    @abstractmethod
    def end(self) -> int:
        """The id that ends a document."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[Int[Tensor, " n"]]:
        """The ids of each text, without ``end``."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids; ``end`` is shown as ``<|endoftext|>``."""


@attrs.frozen(eq=False, slots=False)
class Listed(Tokenizer):
    """One id for each text of a list; needs no library.

    Attributes:
        signs: The text of each id; the empty one ends a document.
    """

    framed = False
    file: ClassVar[str]
    of: ClassVar[str]

    signs: tuple[str, ...]

    @classmethod
    def parsed(cls, data: bytes, source: str) -> "Listed":
        """The list in a file, a JSON list of texts.

        Args:
            data: Its bytes.
            source: Where they were read, for messages.

        Raises:
            CheckpointError: when it is no such list.
        """
        try:
            listed = json.loads(data)
            if not isinstance(listed, list) or not all(isinstance(sign, str) for sign in listed):
                raise ValueError("it is no list of texts")
            return cls(tuple(listed))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{source} is no list of {cls.of}: {error}") from error

    @property
    def files(self) -> Mapping[str, bytes]:  # type: ignore[override]
        """The list, under the name of its kind."""
        return {self.file: (json.dumps(self.signs, ensure_ascii=False) + "\n").encode()}

    @property
    def codes(self) -> int:
        """As many as the list is long."""
        return len(self.signs)

    @property
    def end(self) -> int:
        """The place of the empty text."""
        return self.signs.index("")

    def decode(self, ids: Sequence[int]) -> str:
        """The texts, one after another."""
        return "".join(self.signs[i] or END for i in ids)


@attrs.frozen(eq=False, slots=False)
class Characters(Listed):
    """The characters of a list."""

    file, of = CHARACTERS, "characters"

    def __attrs_post_init__(self) -> None:
        """Refuse what is no such list.

        Raises:
            ValueError: then.
        """
        if len(set(self.signs)) != len(self.signs) or len(self.signs) < 3:
            raise ValueError("it needs two characters at least, and none may be there twice")
        if "" not in self.signs or any(len(sign) > 1 for sign in self.signs):
            raise ValueError('it needs an empty text "", which ends a document, and else single characters')

    @classmethod
    def fitted(cls, texts: Sequence[str]) -> "Characters":
        """The characters of some texts, sorted, and one for unknown ones."""
        counts = Counter[str]()
        for text in texts:
            counts.update(text)
        frequent = [sign for sign, _ in counts.most_common(MOST)]
        return cls(("", UNKNOWN, *sorted({*frequent} - {UNKNOWN})))

    @cached_property
    def _sorted(self) -> tuple[Any, Any]:
        """Code points in ascending order, and the id of each."""
        pairs = sorted((ord(sign), i) for i, sign in enumerate(self.signs) if sign)
        points, ids = np.array(pairs, dtype=np.int64).T
        return points, ids

    def encode(self, texts: Sequence[str]) -> list[Int[Tensor, " n"]]:
        """The place of each character in the list.

        Raises:
            UsageError: for a character that it has not, where it has none for unknown ones.
        """
        return [self._encoded(text) for text in texts]

    def _encoded(self, text: str) -> Int[Tensor, " n"]:
        points, ids = self._sorted
        given = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.int64)
        place = np.searchsorted(points, given).clip(max=len(points) - 1)
        found, known = ids[place], points[place] == given
        if not known.all():
            if UNKNOWN not in self.signs:
                sign = chr(int(given[~known][0]))
                raise UsageError(
                    f"the character {sign!r} is none of the teacher's {len(self.signs) - 1}, and it has "
                    f"no {UNKNOWN!r} for unknown ones. Leave it out of the text, or pretrain another teacher."
                )
            found = np.where(known, found, self.signs.index(UNKNOWN))
        return torch.from_numpy(found)


@attrs.frozen(eq=False, slots=False)
class Pieces(Listed):
    """Parts of words by a list: of those that a text goes on with, always the longest."""

    file, of = PIECES, "pieces"

    def __attrs_post_init__(self) -> None:
        """Refuse what is no such list.

        Raises:
            ValueError: then.
        """
        if len(set(self.signs)) != len(self.signs) or not {"", UNKNOWN} < {*self.signs}:
            ends = f'an empty text "", which ends a document, {UNKNOWN!r} for what is unknown'
            raise ValueError(f"it needs {ends}, and pieces, none of them twice")

    @cached_property
    def _longest_first(self) -> tuple[re.Pattern[str], Mapping[str, int]]:
        """What finds the next piece, and the id of each."""
        longest = sorted(filter(None, self.signs), key=lambda piece: (-len(piece), piece))
        pattern = re.compile("|".join([*map(re.escape, longest), "."]), re.DOTALL)
        return pattern, {piece: i for i, piece in enumerate(self.signs)}

    def encode(self, texts: Sequence[str]) -> list[Int[Tensor, " n"]]:
        """The places of the pieces; a character that begins none is unknown."""
        pattern, ids = self._longest_first
        numbers = ([ids.get(piece, ids[UNKNOWN]) for piece in pattern.findall(text)] for text in texts)
        return [torch.tensor(row, dtype=torch.long) for row in numbers]


@attrs.frozen(eq=False, slots=False)
class BytePairs(Tokenizer):
    """Byte-level byte-pair encoding, as GPT-2's.

    Attributes:
        files: ``tokenizer.json``, or ``vocab.json`` and ``merges.txt``.
        source: Where they were read.
    """

    framed = True
    files: Mapping[str, bytes]
    source: str

    @cached_property
    def _library(self) -> Any:
        """The tokenizer of the library."""
        try:
            tokenizers = import_beside_torchvision("tokenizers")
        except FAILURES as error:
            raise MissingLibraryError(
                f"the tokenizer in {self.source} needs the library 'tokenizers', which does not load "
                f"({type(error).__name__}: {error}). Run: pip install 'dimo[text]'"
            ) from error
        try:
            if WHOLE in self.files:
                return tokenizers.Tokenizer.from_buffer(self.files[WHOLE])
            vocabulary = json.loads(self.files[VOCABULARY])
            lines = self.files[MERGES].decode("utf-8").splitlines()
            merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
            made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges))
            made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
            made.decoder = tokenizers.decoders.ByteLevel()
            return made
        except Exception as error:  # the library raises its own
            raise CheckpointError(f"the tokenizer in {self.source} is damaged: {error}") from error

    @property
    def codes(self) -> int:
        """Entries of the vocabulary."""
        return int(self._library.get_vocab_size())

    @cached_property
    def end(self) -> int:
        """The id of ``<|endoftext|>``.

        Raises:
            CheckpointError: when the vocabulary has none.
        """
        found = self._library.token_to_id(END)
        if found is None:
            raise CheckpointError(f"the tokenizer in {self.source} has no token {END}, which ends a document")
        return int(found)

    def encode(self, texts: Sequence[str]) -> list[Int[Tensor, " n"]]:
        """As the library does, without special tokens."""
        encoded = self._library.encode_batch([*texts], add_special_tokens=False)
        return [torch.tensor(each.ids, dtype=torch.long) for each in encoded]

    def decode(self, ids: Sequence[int]) -> str:
        """As the library does; bytes that are no text become replacement characters."""
        text: str = self._library.decode([*ids], skip_special_tokens=False)
        return text


def read_tokenizer(url: str) -> Tokenizer | None:
    """The tokenizer in a folder; None where there is none.

    Args:
        url: Path or fsspec URL of the folder.

    Raises:
        CheckpointError: when a file is damaged, or of two files one is missing.
    """
    folder = Folder(url)
    for names in LAYOUTS:
        there = [name for name in names if is_there(folder.path(name))]
        if not there:
            continue
        if missing := [name for name in names if name not in there]:
            raise CheckpointError(f"{folder.path(there[0])} is there, and {missing[0]} beside it is missing")
        files = {name: local_copy(folder.path(name)).read_bytes() for name in names}
        kind = {CHARACTERS: Characters, PIECES: Pieces}.get(names[0])
        return kind.parsed(files[names[0]], folder.path(names[0])) if kind else BytePairs(files, folder.url)
    return None
