"""Where a URL leads, and what tells a file from another of its name."""

from pathlib import Path

import pytest

from dimo_core.files.urls import local_path, told_version, version_of


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
