"""Text files, one by one or in folders: ``TextFiles``."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import attrs
import fsspec

from dimo_core import limits
from dimo_core.errors import UsageError
from dimo_core.files.urls import client_options, content, expanded, from_anywhere, local_path, told
from dimo_text.documents import Document, TextData

ENDING = ".txt"


def as_urls(value: str | Sequence[str]) -> str | tuple[str, ...]:
    """One or several paths, each absolute, or URLs."""
    return (
        str(from_anywhere(value)) if isinstance(value, str) else tuple(str(from_anywhere(u)) for u in value)
    )


@attrs.frozen(kw_only=True)
class TextFiles(TextData):
    """Text in UTF-8: files, or all files in folders that end with ``.txt``.

    Attributes:
        path: A file, a folder, or a pattern of files with braces and wildcards; a path or fsspec URL, or a
            list of these.
        documents: What a document is: a file, a paragraph (what empty lines divide), or a line.
        classes: folder: in a folder, the folder in it that a file is in is its class. none: there are none.
        held_out: Share of the documents of each class in the split ``held-out``: one at least of several.
        seed: Seed of that choice.
    """

    registered: ClassVar[str] = "text-files"

    path: str | tuple[str, ...] = attrs.field(converter=as_urls)
    documents: Literal["file", "paragraph", "line"] = "file"
    classes: Literal["folder", "none"] = "folder"

    def every(self) -> Iterator[Document]:
        """The documents of all files, in the order of their paths.

        Raises:
            UsageError: when there is no file, or one cannot be read.
        """
        for url in expanded(self.path):
            for file, label in _listed(url):
                for text in _divided(_text(file), self.documents):
                    yield Document(text, label if self.classes == "folder" else "", file)


def _listed(url: str) -> list[tuple[str, str]]:
    """A file, or the text files in a folder, each with the folder there that it is in."""
    try:
        filesystem, root = fsspec.core.url_to_fs(url, **client_options(url))
        if not filesystem.isdir(root):
            return [(url, "")]
        files = sorted(path for path in filesystem.find(root) if path.endswith(ENDING))
    except Exception as error:  # each file system raises its own
        raise UsageError(f"cannot look up {url!r} ({told(error)}). Check the address.") from error
    if not files:
        raise UsageError(f"no text in {url!r}: expected files that end with {ENDING}, or folders with such.")
    inner = [path[len(root) :].strip("/").rpartition("/")[0].partition("/")[0] for path in files]
    return [(_address(filesystem, path, url), label) for path, label in zip(files, inner, strict=True)]


def _address(filesystem: Any, path: str, like: str) -> str:
    return path if local_path(like) is not None else str(filesystem.unstrip_protocol(path))


def _text(url: str) -> str:
    try:
        return content(url, limits.TEXT).decode("utf-8-sig").replace("\r\n", "\n")
    except Exception as error:  # each file system raises its own
        raise UsageError(
            f"cannot read the text {url!r} ({told(error)}). It must be a file in UTF-8."
        ) from error


def _divided(text: str, into: Literal["file", "paragraph", "line"]) -> list[str]:
    if into == "file":
        return [text]
    return text.splitlines() if into == "line" else [part.strip("\n") for part in re.split(r"\n\s*\n", text)]
