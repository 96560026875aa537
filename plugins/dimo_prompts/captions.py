"""Prompts in the files that hold them: tar files, lines of text, lines of JSON."""

import json
import re
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import attrs

from dimo_core import limits
from dimo_core.errors import UsageError
from dimo_core.files.tar_samples import lacking, tar_samples

Format = Literal["tar", "text", "jsonl"]
"""What a file is."""

ENDINGS: dict[str, Format] = {
    "tar": "tar",
    "tgz": "tar",
    "txt": "text",
    "text": "text",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
}
"""What a file is, by the ending of its name, a compressor's ending aside."""

COMPRESSORS = {"gz": "gzip", "bz2": "bz2", "xz": "xz", "zst": "zstd"}
"""fsspec's names of what files may be compressed with, by ending."""


@attrs.frozen(kw_only=True)
class Broken:
    """A prompt that cannot be read.

    Attributes:
        key: Where it is within its file.
        reason: What is wrong with it.
    """

    key: str
    reason: str


Entry = str | Broken
"""What is found in the place of a prompt."""


@attrs.frozen(kw_only=True)
class Layout:
    """Where prompts are within files.

    Attributes:
        format: What the files are; ``auto`` goes by their names.
        field: Member of a tar file's samples, or field of a JSON object; None for the usual one.
    """

    format: Literal["auto", "tar", "text", "jsonl"] = "auto"
    field: str | None = None

    def format_of(self, url: str) -> Format:
        """What a file is.

        Raises:
            UsageError: when its name does not say it, or a field is asked for in plain text.
        """
        endings = _endings(url)
        known = next((ENDINGS[ending] for ending in endings[:1] if ending in ENDINGS), None)
        form = known if self.format == "auto" else self.format
        if form is None:
            raise UsageError(
                f"{url!r}: its name does not say what it is. Known endings:"
                f" {', '.join(f'.{name}' for name in ENDINGS)}, each also with"
                f" {', '.join(f'.{name}' for name in COMPRESSORS)}. Or name its format: tar, text or jsonl."
            )
        if form == "text" and self.field is not None:
            raise UsageError(f"{url!r} is plain text, which has no field {self.field!r}: leave field null.")
        return form

    def compressor_of(self, url: str) -> str | None:
        """fsspec's name of what it is compressed with; tar files are decompressed by their reader."""
        ending = _name(url).rpartition(".")[2].lower()
        return None if self.format_of(url) == "tar" else COMPRESSORS.get(ending)

    def in_parts(self, url: str) -> bool:
        """Whether some lines of a file can be read without the ones before."""
        return self.format_of(url) != "tar" and self.compressor_of(url) is None

    def of_tar(self, file: Any, url: str) -> Iterator[Entry]:
        """The prompts of a tar file's samples, in order.

        Raises:
            tarfile.ReadError: for what is no tar file, or where the file was cut off.
            ValueError: when a sample has two members of one name.
        """
        member, path = _place(self.field or "txt")
        member = member.lower()  # as webdataset gives them
        ending = f".{member}"
        for sample in tar_samples(file, url, lambda name: name.lower().endswith(ending)):
            key = sample["__key__"]
            if member not in sample:
                yield from (Broken(key=key, reason=reason) for reason in lacking(sample, [member]))
            else:
                yield _read(key, sample[member], path if "json" in member.split(".") else None)

    def of_lines(self, file: Any, url: str) -> Iterator[tuple[int, Entry | None]]:
        """The length of each line with its end, and the prompt in it; None for an empty line.

        Args:
            file: A binary file, read from its beginning, or a part of one.
            url: Its name.

        Raises:
            ValueError: for a line without an end.
        """
        path = None
        if self.format_of(url) == "jsonl":
            member, path = _place(self.field or "prompt")
            path = path if member.endswith("json") else [*member.split("."), *path]
        for number, line in enumerate(iter(partial(file.readline, limits.TEXT_LINE), b""), 1):
            if len(line) == limits.TEXT_LINE:
                raise ValueError(f"line {number} has {limits.TEXT_LINE:,} bytes or more")
            content = line.strip()
            yield len(line), _read(f"line {number}", content, path) if content else None


def _name(url: str) -> str:
    """The path in a URL, or in the first part of a chained one that has a path."""
    part = next((part for part in url.split("::") if "://" in part), url)
    return re.split(r"[?#]", part)[0] if re.match(r"https?://", part) else part


def _endings(url: str) -> list[str]:
    """The endings of a file's name, last first, a compressor's aside."""
    endings = _name(url).rpartition("/")[2].lower().split(".")[:0:-1]
    return endings[1:] if endings and endings[0] in COMPRESSORS else endings


def _place(field: str) -> tuple[str, list[str]]:
    """Member of a sample, and keys within it: ``json.a.b`` is member ``json`` and keys ``a``, ``b``."""
    parts = field.split(".")
    count = parts.index("json") + 1 if "json" in parts else len(parts)
    return ".".join(parts[:count]), parts[count:]


def _read(key: str, content: bytes, path: list[str] | None) -> Entry:
    """A prompt from text, or from JSON where there is a path to follow in it; a JSON string is a prompt."""
    try:
        found: Any = content.decode("utf-8-sig")
        if path is not None:
            found = json.loads(found)
            for name in [] if isinstance(found, str) else path:
                found = found[name]
        if not isinstance(found, str):
            return Broken(key=key, reason=f"no text but {type(found).__name__}")
        if len(found) > limits.CAPTION:
            return Broken(key=key, reason=f"{len(found):,} characters; {limits.CAPTION:,} is the most")
        found.encode()  # JSON may hold half of a surrogate pair
    except UnicodeError as error:
        return Broken(key=key, reason=f"no UTF-8: {error}")
    except (ValueError, RecursionError) as error:  # numbers may have too many digits
        return Broken(key=key, reason=f"no JSON: {error}")
    except (LookupError, TypeError):
        return Broken(key=key, reason=f"no field {'.'.join(path or [])}")
    return found.strip() or Broken(key=key, reason="empty")
