"""Prompts in files of all formats: what is read, and what is wrong with the rest."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from dimo_core import limits
from dimo_core.errors import UsageError
from dimo_core.files import tar_samples
from dimo_prompts.captions import Broken, Layout


def tar(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def in_tar(members: Mapping[str, bytes], field: str | None = None) -> list[Any]:
    return [*Layout(field=field).of_tar(io.BytesIO(tar(members)), "a.tar")]


def in_lines(content: bytes, name: str = "a.txt", field: str | None = None) -> list[Any]:
    entries = Layout(field=field).of_lines(io.BytesIO(content), name)
    return [entry for _, entry in entries if entry is not None]


def reasons(entries: list[Any]) -> list[tuple[str, str]]:
    return [(entry.key, entry.reason) for entry in entries if isinstance(entry, Broken)]


@pytest.mark.parametrize(
    ("url", "form"),
    [
        ("a.tar", "tar"),
        ("b/c.TAR.GZ", "tar"),
        ("a.tgz", "tar"),
        ("a.txt", "text"),
        ("laion.6plus.txt.gz", "text"),
        ("s3://bucket/a.jsonl", "jsonl"),
        ("a.ndjson.xz", "jsonl"),
        ("https://host.example/a.tar?signature=x.txt", "tar"),
        ("simplecache::https://host.example/a.jsonl?y", "jsonl"),
        ("tar://inner.txt::https://host.example/a.tar", "text"),
    ],
)
def test_the_name_of_a_file_says_what_it_is(url: str, form: str) -> None:
    assert form == Layout().format_of(url)


@pytest.mark.parametrize("url", ["captions", "a.csv", "folder.tar/captions", "a.gz", ".tar/"])
def test_a_name_that_says_nothing_needs_a_format(url: str) -> None:
    with pytest.raises(UsageError, match="name its format: tar, text or jsonl"):
        Layout().format_of(url)
    assert "jsonl" == Layout(format="jsonl").format_of(url)


@pytest.mark.parametrize(
    ("url", "compressor"),
    [("a.txt", None), ("a.txt.gz", "gzip"), ("a.jsonl.zst", "zstd"), ("a.tar.gz", None)],
)
def test_compressed_lines_are_decompressed_and_not_read_in_parts(url: str, compressor: str | None) -> None:
    assert compressor == Layout().compressor_of(url)
    assert (url == "a.txt") == Layout().in_parts(url)


def test_plain_text_has_no_fields() -> None:
    with pytest.raises(UsageError, match="no field 'caption'"):
        Layout(field="caption").format_of("a.txt")


CAPTION = {"caption": "a cat", "meta": {"long": "a grey cat"}}


@pytest.mark.parametrize(
    ("members", "field", "prompt"),
    [
        ({"a.txt": b" a cat\n"}, None, "a cat"),
        ({"a.jpg": b"\xff", "a.txt": b"a cat"}, "txt", "a cat"),
        ({"dir/a.TXT": b"a cat"}, None, "a cat"),
        ({"a.long.txt": b"a grey cat", "a.txt": b"a cat"}, "long.txt", "a grey cat"),
        ({"a.json": json.dumps(CAPTION).encode()}, "json.caption", "a cat"),
        ({"a.json": json.dumps(CAPTION).encode()}, "json.meta.long", "a grey cat"),
        ({"a.info.json": json.dumps(CAPTION).encode()}, "info.json.caption", "a cat"),
        ({"a.json": b'"a cat"'}, "json", "a cat"),
        ({"a.txt": "eine Möwe, 鳥, 🐈".encode()}, None, "eine Möwe, 鳥, 🐈"),
        ({"a.txt": b"two\nlines"}, None, "two\nlines"),
        ({"a.txt": b"\xef\xbb\xbfa cat"}, None, "a cat"),
        ({"a.json": b"\xef\xbb\xbf" + json.dumps(CAPTION).encode()}, "json.caption", "a cat"),
    ],
)
def test_a_field_of_samples_is_read(members: dict[str, bytes], field: str | None, prompt: str) -> None:
    assert [prompt] == in_tar(members, field)


@pytest.mark.parametrize(
    ("members", "field", "reason"),
    [
        ({"a.jpg": b"\xff", "a.json": b"{}"}, None, "no member txt; there are jpg, json"),
        ({"a.txt": b"\xff\xfe"}, None, "no UTF-8"),
        ({"a.txt": b" \n"}, None, "empty"),
        ({"a.json": b"{"}, "json.caption", "no JSON"),
        ({"a.json": b"[" * 100_000}, "json.caption", "no JSON"),
        ({"a.json": b"9" * 5000}, "json.caption", "no JSON"),
        ({"a.json": b"{}"}, "json.caption", "no field caption"),
        ({"a.json": b"[1]"}, "json.caption", "no field caption"),
        ({"a.json": b'{"caption": null}'}, "json.caption", "no text but NoneType"),
        ({"a.json": b'{"caption": {"a": 1}}'}, "json.caption", "no text but dict"),
        ({"a.json": b'{"caption": ""}'}, "json.caption", "empty"),
        ({"a.json": rb'{"caption": "\ud800"}'}, "json.caption", "no UTF-8"),
    ],
)
def test_a_broken_caption_is_named_and_the_others_are_read(
    members: dict[str, bytes], field: str | None, reason: str
) -> None:
    whole = CAPTION["caption"].encode() if field is None else json.dumps(CAPTION).encode()
    ending = "txt" if field is None else "json"
    first, broken, last = in_tar({f"0.{ending}": whole} | members | {f"z.{ending}": whole}, field)
    assert ("a cat", "a cat") == (first, last)
    assert isinstance(broken, Broken)
    assert "a" == broken.key
    assert broken.reason.startswith(reason)


def test_lines_hold_a_prompt_each_and_empty_ones_none() -> None:
    content = b"\xef\xbb\xbfa cat\n\n a dog \r\n \t\r\nan \x0beel\rat sea"
    assert ["a cat", "a dog", "an \x0beel\rat sea"] == in_lines(content)
    assert [(7 + 2, "a cat")] == [*Layout().of_lines(io.BytesIO(content[:9]), "a.txt")]


def test_lengths_of_lines_add_up_to_the_file() -> None:
    content = b"a cat\r\n\n\na dog\n\xff\n no end"
    assert len(content) == sum(length for length, _ in Layout().of_lines(io.BytesIO(content), "a.txt"))


def test_a_broken_line_is_named_by_its_number() -> None:
    entries = in_lines(b"a cat\n\n\xff\na dog\n")
    assert ("a cat", "a dog") == (entries[0], entries[2])
    ((key, reason),) = reasons(entries)
    assert "line 3" == key
    assert reason.startswith("no UTF-8")


@pytest.mark.parametrize(
    ("line", "field", "prompt"),
    [
        ({"prompt": "a cat"}, None, "a cat"),
        ("a cat", None, "a cat"),
        ({"text": "a cat"}, "text", "a cat"),
        ({"Text": {"En": "a cat"}}, "Text.En", "a cat"),
        ({"caption": "a cat"}, "json.caption", "a cat"),
    ],
)
def test_lines_of_json_hold_a_field(line: Any, field: str | None, prompt: str) -> None:
    assert [prompt] == in_lines(json.dumps(line).encode(), "a.jsonl", field)


def test_broken_lines_of_json_are_named() -> None:
    entries = in_lines(
        b'{"prompt": "a cat"}\n{"prompt": 3}\n{"text": "x"}\n\nnull\n{"prompt": " "}', "a.jsonl"
    )
    expected = [
        ("line 2", "no text but int"),
        ("line 3", "no field prompt"),
        ("line 5", "no field prompt"),
        ("line 6", "empty"),
    ]
    assert expected == reasons(entries)


def test_absurd_lengths_are_broken_and_a_line_without_end_ends_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = b"a cat\n" + b"x" * 10_000_000 + b"\n"
    (_, cat), (_, long) = Layout().of_lines(io.BytesIO(content), "a.txt")
    assert ("a cat", "10,000,000 characters; 100,000 is the most") == (cat, getattr(long, "reason", ""))
    monkeypatch.setattr(limits, "TEXT_LINE", 100)
    with pytest.raises(ValueError, match="line 2 has 100 bytes or more"):
        list(Layout().of_lines(io.BytesIO(content), "a.txt"))


def test_a_member_of_absurd_size_is_not_read() -> None:
    member = tarfile.TarInfo("a.txt")
    member.size = 3 * 2**30
    entries = Layout().of_tar(io.BytesIO(member.tobuf() + bytes(1024)), "a.tar")
    with pytest.raises(
        tarfile.ReadError, match=r"'a\.txt' has 3,221,225,472 bytes; 1,073,741,824 is the most"
    ):
        list(entries)


def member(kind: bytes, content: bytes | int, name: str = "a.txt") -> bytes:
    """A member of a tar file, or the beginning of one that promises so many bytes."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, content if isinstance(content, int) else len(content)
    data = b"" if isinstance(content, int) else content
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


SPARSE = bytearray(member(tarfile.GNUTYPE_SPARSE, 0))
SPARSE[482] = 1  # its map goes on in the next block
SPARSE[148:156] = b"%06o\0 " % (sum(SPARSE[:148]) + sum(SPARSE[156:]) + 256)


@pytest.mark.parametrize(
    "data",
    [
        *(member(kind, 2 * 2**30) for kind in (b"L", b"K", b"x", b"g", b"X")),
        member(b"L", b"b" * 300) * 300 + member(b"0", b"a cat"),
        bytes(SPARSE) + (bytes(504) + b"\1" + bytes(7)) * 1000 + bytes(1024),
        member(b"x", b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n")
        + member(b"0", 2**20)
        + b"100000\n"
        + b"1\n" * 100_000,
    ],
    ids=["name", "link", "pax", "global", "solaris", "many", "sparse", "pax sparse"],
)
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_no_header_of_absurd_size_is_read(data: bytes, compress: Callable[[bytes], bytes]) -> None:
    first = member(b"0", b"a dog", "z.txt")
    for content in (data, first + data):
        entries = Layout().of_tar(io.BytesIO(compress(content + bytes(1024))), "a.tar")
        with pytest.raises(tarfile.ReadError, match=r"^the header of a member has more than 65,536 bytes$"):
            list(entries)


def test_long_names_are_read() -> None:
    data = b"".join(member(b"L", f"{n * 3000}.txt\0".encode()) + member(b"0", b"a cat") for n in "ab" * 200)
    assert 400 == len(list(Layout().of_tar(io.BytesIO(data + bytes(1024)), "a.tar")))


def test_headers_for_all_members_are_not_piled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    most = []

    class Watched(tar_samples._Archive):
        def next(self) -> Any:
            found = super().next()
            most.append(len(self.pax_headers))
            return found

    monkeypatch.setattr(tar_samples, "_Archive", Watched)
    data = [member(b"g", b"8 k%02d=v\n" % n) + member(b"0", b"a cat", f"{n}.txt") for n in range(50)]
    assert 50 == len(list(Layout().of_tar(io.BytesIO(b"".join(data) + bytes(1024)), "a.tar")))
    assert 1 == max(most)
