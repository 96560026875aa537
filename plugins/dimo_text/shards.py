"""Text in shards: tar files as webdataset writes them, JSON lines, Parquet: ``TextShards``."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import attrs
import fsspec
from attrs import validators as v

from dimo_core import limits
from dimo_core.errors import DimoError, MissingLibraryError, UsageError
from dimo_core.files.tar_samples import lacking, tar_samples
from dimo_core.files.urls import check_regular, client_options, expanded, told
from dimo_core.libraries import FAILURES, import_beside_torchvision
from dimo_text.documents import Document, TextData
from dimo_text.files import as_urls

TAR, LINES, PARQUET = (".tar", ".tgz"), (".jsonl", ".ndjson"), (".parquet",)
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


@attrs.frozen(kw_only=True)
class TextShards(TextData):
    """Text in tar files, JSON lines (``.jsonl``) or Parquet, told apart by their names.

    Attributes:
        url: Path or fsspec URL of the shards, with braces and wildcards (``books-{000..127}.tar``), or a
            list of these.
        field: Where a document's text is: the ending of a member of a tar file's sample, or a field. Null is
            ``txt`` in tar files and ``text`` elsewhere.
        label: Where the name of its class is, likewise, such as ``cls``; null for none.
        held_out: Share of the documents of each class in the split ``held-out``: one at least of several.
        seed: Seed of that choice.
    """

    registered: ClassVar[str] = "text-shards"

    url: str | tuple[str, ...] = attrs.field(converter=as_urls)
    field: str | None = attrs.field(default=None, validator=v.optional(v.min_len(1)))
    label: str | None = attrs.field(default=None, validator=v.optional(v.min_len(1)))

    def every(self) -> Iterator[Document]:
        """The documents of all shards, in their order.

        Raises:
            UsageError: for a shard or document that cannot be read.
            MissingLibraryError: for Parquet, where ``datasets`` does not load.
        """
        for url in expanded(self.url):
            yield from documents(url, self.field, self.label)


def documents(url: str, field: str | None, label: str | None) -> Iterator[Document]:
    """The documents of a shard, one after another.

    Args:
        url: The shard.
        field: Where their text is, as in ``TextShards``.
        label: Where their class is, likewise.

    Raises:
        UsageError: for a shard or document that cannot be read.
        MissingLibraryError: for Parquet, where ``datasets`` does not load.
    """
    try:
        for place, record in _records(url):
            yield _document(
                f"{url}, {place}", record, field or ("txt" if _kind(url) is TAR else "text"), label
            )
    except DimoError:
        raise
    except Exception as error:  # of file system, tarfile, decompressor or library
        reason = error.args[0] if error.args and isinstance(error.args[0], str) else told(error)
        text = " ".join(f"{type(error).__name__}: {reason}".split())
        raise UsageError(f"the shard {url} cannot be read: {text}") from error


def _document(place: str, record: Mapping[str, Any], field: str, label: str | None) -> Document:
    text = _plain(record.get(field))
    if not isinstance(text, str):
        tar = "__key__" in record
        missing = lacking(record, [field])[0] if tar else f"no text in the field {field!r}"
        raise UsageError(f"{place}: {missing}. Name where the text is with --data.field.")
    own = "" if label is None else str(_plain(record.get(label, ""))).strip()
    if label is not None and not own:
        raise UsageError(f"{place}: no class in {label!r}. Name where it is with --data.label.")
    return Document(text.replace("\r\n", "\n"), own, place)


def _plain(value: Any) -> Any:
    """A member of a tar file as text; a field as it is."""
    return value.decode("utf-8-sig") if isinstance(value, bytes) else value


def _kind(url: str) -> tuple[str, ...]:
    """What a shard is, by its name.

    Raises:
        UsageError: for a name of another ending.
    """
    plain = url.partition("?")[0] if "://" in url else url
    for ending in COMPRESSED:
        plain = plain.removesuffix(ending)
    for kind in (TAR, LINES, PARQUET):
        if plain.endswith(kind):
            return kind
    known = ", ".join((*TAR, *LINES, *PARQUET))
    raise UsageError(
        f"{url!r} is no shard of text: its name ends with none of {known}. Try --data text-files."
    )


def _records(url: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Where each record of a shard is, and its members or fields."""
    kind = _kind(url)
    if kind is PARQUET:
        for number, row in enumerate(_parquet(url), 1):
            yield f"row {number}", row
        return
    check_regular(url)
    compression = "infer" if kind is LINES else None
    with fsspec.open(url, "rb", compression=compression, **client_options(url)) as file:
        if kind is TAR:
            yield from ((str(sample["__key__"]), sample) for sample in tar_samples(file, url))
            return
        number = 0
        while line := file.readline(limits.TEXT_LINE):
            number += 1
            record = json.loads(line) if line.strip() else None
            if record is not None and not isinstance(record, dict):
                raise ValueError(f"line {number} is no JSON object")
            if record is not None:
                yield f"line {number}", record


def _parquet(url: str) -> Iterator[Mapping[str, Any]]:
    """The rows of a Parquet file, one after another, by the library ``datasets``."""
    try:
        datasets = import_beside_torchvision("datasets")
    except FAILURES as error:
        raise MissingLibraryError(
            "Parquet is read by the library 'datasets', which does not load "
            f"({type(error).__name__}: {error}). Run: pip install 'dimo[parquet]'"
        ) from error
    yield from datasets.load_dataset("parquet", data_files=[url], split="train", streaming=True)
