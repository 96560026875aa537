"""Where a URL leads, and what tells a file from another of its name."""

import os
from pathlib import Path

import pytest

from dimo_core.errors import UsageError
from dimo_core.files.urls import (
    content,
    expanded,
    from_anywhere,
    local_path,
    told_version,
    version_of,
)


def test_only_local_paths_are_local(tmp_path: Path) -> None:
    assert tmp_path == local_path(str(tmp_path)) == local_path(f"file://{tmp_path}")
    assert local_path("memory://a") is None
    assert local_path("simplecache::file://a") is None


@pytest.mark.parametrize(
    "name", ["ETag", "etag", "Last-Modified", "LastModified", "mtime", "md5Hash", "generation"]
)
def test_a_replaced_file_of_the_same_size_is_another_version(name):
    old, new = ({"size": 9, name: told} for told in ("monday", "tuesday"))
    assert "9 monday" == version_of(old) != version_of(new)
    assert {name: "monday"} == told_version(old)


def test_without_tags_and_times_the_size_is_all_that_is_known():
    assert ("9", {}) == (version_of({"size": 9, "ETag": None}), told_version({"size": 9, "ETag": None}))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("captions [v2].txt", ["captions [v2].txt"]),
        ("captions {v3}.txt", ["captions {v3}.txt"]),
        ("set [v2]/a-*.tar", ["set [v2]/a-1.tar", "set [v2]/a-2.tar"]),
        ("set [v2]/a-[13].tar", ["set [v2]/a-1.tar"]),
        ("set [v2]/a-{1..2}.tar", ["set [v2]/a-1.tar", "set [v2]/a-2.tar"]),
        ("s*/a-2.tar", ["set [v2]/a-2.tar"]),
        ("set [v2]/../captions [[]v2].t?t", ["captions [v2].txt"]),
    ],
)
def test_what_is_there_is_no_pattern(tmp_path: Path, given: str, expected: list[str]) -> None:
    (tmp_path / "set [v2]").mkdir()
    for name in ("captions [v2].txt", "captions {v3}.txt", "set [v2]/a-1.tar", "set [v2]/a-2.tar"):
        (tmp_path / name).touch()
    assert [str(tmp_path / name) for name in expected] == expanded(f"{tmp_path}/{given}")


@pytest.mark.parametrize(
    ("url", "count"),
    [
        ("a-{1..1000000000}.tar", "1,000,000,000"),
        ("a-{0..9999}-{a..z}-{x,y,z,w}.tar", "1,040,000"),
        ("{" + "{1..99}" * 9 + "}", ""),
    ],
)
def test_braces_of_too_many_files_are_refused_before_they_are_written_out(url: str, count: str) -> None:
    with pytest.raises(UsageError, match=f"stands for {count}.* files; 1,000,000 is the most"):
        expanded(url)


def test_a_named_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PermissionError, match=r"pipe is no file, but a named pipe"):
        content(str(tmp_path / "pipe"), 9)


def test_a_pipe_that_a_shell_hands_over_is_read() -> None:
    end, other = os.pipe()
    os.write(other, b"seed: 3")
    os.close(other)
    assert content(f"/dev/fd/{end}", 100) == b"seed: 3"
    os.close(end)


def test_no_more_is_read_than_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123456789")
    assert b"123456789" == content(str(tmp_path / "a"), 9)
    for url in (str(tmp_path / "a"), "/dev/zero"):
        with pytest.raises(ValueError, match="it has more than 8 bytes"):
            content(url, 8)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, None),
        ("", ""),
        ("a/../t/", "{here}/t"),
        (Path("t"), "{here}/t"),
        ("t [v2]{x}", "{here}/t [v2]{x}"),
        ("/t/x", "/t/x"),
        ("~/t", "{home}/t"),
        ("s3://b/t", "s3://b/t"),
        ("file://t", "file://t"),
        ("zip://a::t.zip", "zip://a::t.zip"),
    ],
)
def test_a_path_is_found_from_every_folder(given, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = found and found.replace("{here}", str(tmp_path)).replace("{home}", str(Path.home()))
    assert expected == from_anywhere(given)
