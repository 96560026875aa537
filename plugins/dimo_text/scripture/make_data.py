"""Make ``scripture.tsv.gz`` and ``pieces.json`` from the text as Debian packages it.

::

    python -m dimo_text.scripture.make_data BIBLE_DATA [FOLDER]

``BIBLE_DATA`` is the file usr/lib/bible.data of Debian's package bible-kjv-text: a head, then windows of 64
KiB of text, each compressed as by compress(1) and without the three bytes by which such files are known. They
are unpacked by gzip, the program. The result is the same, byte for byte, wherever it is made.
"""

import gzip
import json
import re
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from dimo_core.errors import MissingLibraryError
from dimo_core.libraries import FAILURES, import_beside_torchvision
from dimo_text.scripture.data import FILE, SPLITS, Scripture, parts_of
from dimo_text.scripture.pieces import PIECES

WINDOWS, OFFSETS = 0x58, 0x5C
"""Where the head has the number of windows, and then where each begins."""

MAGIC = b"\x1f\x9d\x90"
"""How files of compress(1) begin."""

VERSE = re.compile(r"([0-9]?[A-Za-z]+)([0-9]+):[0-9]+ (.*)")

CODES = 512
"""Pieces, with the end of a document and what stands for unknown characters."""

WORDS = r" ?[a-z]+| ?[^a-z ]+| "
"""A piece lies within one of these."""


def unpacked(data: bytes) -> str:
    """The text in a file ``bible.data``."""
    (count,) = struct.unpack_from(">I", data, WINDOWS)
    starts = struct.unpack_from(f">{count}I", data, OFFSETS)
    windows = (MAGIC + data[a:b] for a, b in zip(starts, (*starts[1:], len(data)), strict=True))
    made = (subprocess.run(["gzip", "-dc"], input=each, capture_output=True, check=True) for each in windows)
    return b"".join(each.stdout for each in made).decode("ascii")


def chapters_of(text: str) -> dict[str, str]:
    """The text of each chapter: its verses without their numbers, joined by spaces."""
    found: dict[str, list[str]] = {}
    for book, number, verse in VERSE.findall(text):
        found.setdefault(f"{book} {number}", []).append(verse.strip())
    return {name: " ".join(verses) for name, verses in found.items()}


def pieces_of(texts: Iterable[str]) -> list[str]:
    """Pieces by byte-pair encoding within words, sorted; then what is unknown, and the end of a document.

    Raises:
        MissingLibraryError: without tokenizers.
    """
    try:
        library = import_beside_torchvision("tokenizers")
    except FAILURES as error:
        raise MissingLibraryError(
            f"pieces are fitted by the library 'tokenizers', which does not load ({error}). "
            "Install it: pip install 'dimo[text]'"
        ) from error
    made = library.Tokenizer(library.models.BPE())
    made.pre_tokenizer = library.pre_tokenizers.Split(library.Regex(WORDS), "isolated")
    trainer = library.trainers.BpeTrainer(vocab_size=CODES - 2, show_progress=False)
    made.train_from_iterator(texts, trainer)
    return ["", "\N{REPLACEMENT CHARACTER}", *sorted(made.get_vocab())]


def make_data(source: Path, folder: Path) -> None:
    """Write the chapters with their parts, then the pieces, which are those of the reader's part."""
    found = chapters_of(unpacked(source.read_bytes()))
    parts = parts_of([*found])
    lines = [f"{SPLITS[part]}\t{name}\t{found[name]}" for part, name in zip(parts, found, strict=True)]
    (folder / FILE).write_bytes(gzip.compress("\n".join(lines).encode() + b"\n", 9, mtime=0))
    pieces = pieces_of(Scripture().load("reader").lines or ())
    (folder / PIECES).write_text(json.dumps(pieces, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    make_data(Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2:] else Path(__file__).parent)
