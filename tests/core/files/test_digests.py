"""Digests that are remembered: never for another content, and only for files that have come to rest."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from dimo_core.files import digests
from dimo_core.files.cache import file_sha256
from dimo_core.files.digests import remembered_sha256


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIMO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "SETTLED", -60.0)  # everything counts as at rest
    return tmp_path / "cache" / "digests"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read."""
    names: list[str] = []

    def spy(path: Path) -> str:
        names.append(path.name)
        return file_sha256(path)

    monkeypatch.setattr(digests, "file_sha256", spy)
    return names


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_an_unchanged_file_is_read_once(tmp_path: Path, hashed: list[str]) -> None:
    path = tmp_path / "w"
    path.write_bytes(b"weights")
    assert [sha(b"weights")] * 3 == [remembered_sha256(path) for _ in range(3)]
    (tmp_path / "link").symlink_to(path)
    assert sha(b"weights") == remembered_sha256(tmp_path / "link")
    assert ["w"] == hashed


@pytest.mark.parametrize("way", ["rewritten", "replaced"])
def test_other_content_is_noticed_even_at_the_same_size_and_time(tmp_path: Path, way: str) -> None:
    path = tmp_path / "w"
    path.write_bytes(b"weights")
    before = path.stat()
    assert sha(b"weights") == remembered_sha256(path)
    if way == "rewritten":
        path.write_bytes(b"WEIGHTS")
    else:
        (tmp_path / "new").write_bytes(b"WEIGHTS")
        os.replace(tmp_path / "new", path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert sha(b"WEIGHTS") == remembered_sha256(path)


def test_files_of_one_content_and_name_in_two_places_do_not_meet(tmp_path: Path, hashed: list[str]) -> None:
    for place in "ab":
        (tmp_path / place).mkdir()
        (tmp_path / place / "w").write_bytes(place.encode())
    expected = [sha(b"a"), sha(b"b")]
    for _ in range(2):
        assert expected == [remembered_sha256(tmp_path / place / "w") for place in "ab"]
    assert ["w", "w"] == hashed


def test_a_file_that_changed_a_moment_ago_is_not_remembered(
    tmp_path: Path, cache: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "SETTLED", 3600.0)
    path = tmp_path / "w"
    path.write_bytes(b"weights")
    os.utime(path, (0, 0))  # its content pretends to be old; its inode cannot
    assert [sha(b"weights")] * 2 == [remembered_sha256(path) for _ in range(2)]
    assert ["w", "w"] == hashed
    assert not cache.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"facts": [1]}', '{"sha256": 3}'])
def test_a_damaged_memory_is_no_harm(tmp_path: Path, cache: Path, content: str) -> None:
    path = tmp_path / "w"
    path.write_bytes(b"weights")
    remembered_sha256(path)
    (kept,) = cache.iterdir()
    assert sha(b"weights") == json.loads(kept.read_text())["sha256"]
    kept.write_text(content)
    assert sha(b"weights") == remembered_sha256(path)


def test_a_cache_that_cannot_be_written_is_no_harm(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(b"weights")
    cache.parent.mkdir()
    cache.write_text("a file in the way")
    assert sha(b"weights") == remembered_sha256(path)
