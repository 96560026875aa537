"""Folders on local disks and in memory: whole files or none."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from dimo_core.errors import StorageError
from dimo_core.files.folder import Folder
from dimo_core.files.log import LATE, Log


@pytest.fixture(params=["local", "file", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    if request.param == "memory":
        yield Folder("memory://test-folder/run")
        Folder("memory://test-folder").remove()
    else:
        yield Folder(str(tmp_path / "run") if request.param == "local" else f"file://{tmp_path}/run")


def test_what_is_written_is_read(folder: Folder) -> None:
    folder.write("a/b.bin", b"\x00\x01")
    assert b"\x00\x01" == folder.read("a/b.bin") == folder.read("a", "b.bin") == folder.sub("a").read("b.bin")


def test_a_file_is_replaced(folder: Folder) -> None:
    folder.write("a", b"first, and longer")
    folder.write("a", b"second")
    assert b"second" == folder.read("a")
    assert ["a"] == folder.names()


def test_a_file_is_written_in_parts(folder: Folder) -> None:
    folder.write("a", (bytes([i]) * 400 for i in range(20)))
    assert b"".join(bytes([i]) * 400 for i in range(20)) == folder.read("a")
    folder.write("a", [memoryview(b"first"), b", second"])
    assert b"first, second" == folder.read("a")


def test_a_remote_file_system_is_given_a_file_and_not_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    put, whole = list[str](), MemoryFileSystem.put_file
    monkeypatch.setattr(MemoryFileSystem, "put_file", lambda *a: (put.append(a[1]), whole(*a))[1])
    monkeypatch.delattr(MemoryFileSystem, "pipe_file")
    folder = Folder("memory://test-folder/put")
    folder.write("a", (bytes(400) for _ in range(50)))
    assert bytes(20_000) == folder.read("a")
    assert [False] == [os.path.exists(path) for path in put]
    Folder("memory://test-folder").remove()


def test_parts_that_end_in_an_error_leave_the_old_file(folder: Folder) -> None:
    def parts() -> Iterator[bytes]:
        yield bytes(5000)
        raise OSError("the power fails")

    for name in ("a", "b"):
        if name == "a":
            folder.write(name, b"old")
        with pytest.raises(StorageError, match="power fails"):
            folder.write(name, parts())
    assert ["a"] == folder.names()
    assert b"old" == folder.read("a")


def test_names_are_sorted_and_of_this_level_only(folder: Folder) -> None:
    for name in ("b", "c/d", "a"):
        folder.write(name, b"x")
    assert ["a", "b", "c"] == folder.names()


def test_a_missing_folder_is_empty(folder: Folder) -> None:
    assert [] == folder.names()
    assert not folder.exists()
    assert not folder.exists("a")


def test_a_missing_file_cannot_be_read(folder: Folder) -> None:
    folder.write("b", b"x")
    with pytest.raises(FileNotFoundError):
        folder.read("a")


def test_append_adds_to_the_end(folder: Folder) -> None:
    folder.append("logs/run.log", "one\n")
    folder.append("logs/run.log", "zwei, drei: ä\n")
    assert "one\nzwei, drei: ä\n" == folder.read("logs/run.log").decode()


def test_a_local_log_has_each_line_at_once(tmp_path: Path) -> None:
    log = Log(Folder(tmp_path), "run.log")
    for number in range(3):
        log.write(f"{number}\n")
        assert 2 * (number + 1) == len((tmp_path / "run.log").read_text())


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which the test sets."""
    now = [1000.0]
    monkeypatch.setattr("dimo_core.files.log.time.monotonic", lambda: now[0])
    return now


@pytest.fixture
def remote() -> Iterator[Folder]:
    yield Folder("memory://test-log/run")
    Folder("memory://test-log").remove()


def test_lines_of_a_remote_log_are_written_together(remote: Folder, seconds: list[float]) -> None:
    log = Log(remote, "run.log")
    for number in range(6):
        log.write(f"{number}\n")
        seconds[0] += LATE / 3
    assert b"0\n1\n2\n3\n" == remote.read("run.log")
    log.flush()
    assert b"0\n1\n2\n3\n4\n5\n" == remote.read("run.log")
    log.flush()
    assert b"0\n1\n2\n3\n4\n5\n" == remote.read("run.log")


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_no_line_of_a_remote_log_is_lost_at_its_end(remote: Folder, seconds: list[float], ends: str) -> None:
    with suppress(ZeroDivisionError), Log(remote, "run.log") as log:
        log.write("a\n")
        log.write("b\n")
        assert b"a\n" == remote.read("run.log")
        if ends == "badly":
            raise ZeroDivisionError
    assert b"a\nb\n" == remote.read("run.log")


def test_lines_wait_for_a_store_that_is_lost_and_hide_no_other_error(
    remote: Folder, seconds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, tried = Log(remote, "run.log"), list[str]()

    def lost(_: Folder, name: str, text: str) -> None:
        tried.append(text)
        raise StorageError("the store is lost")

    with monkeypatch.context() as patched:
        patched.setattr(Folder, "append", lost)
        with pytest.raises(StorageError, match="lost"):
            log.write("a\n")
        log.write("b\n")  # which asks it no more before a while
        with pytest.raises(ZeroDivisionError), log:
            raise ZeroDivisionError
        with pytest.raises(StorageError, match="lost"), log:
            pass
    assert ["a\n", "a\nb\n", "a\nb\n"] == tried
    log.flush()
    assert b"a\nb\n" == remote.read("run.log")


def test_remove_takes_files_and_folders_and_forgives_missing_ones(folder: Folder) -> None:
    folder.write("a", b"x")
    folder.write("b/c/d", b"x")
    for name in ("a", "b", "missing"):
        folder.remove(name)
    assert [] == folder.names()


def test_yaml_keeps_the_order_of_keys_and_plain_types(folder: Folder) -> None:
    data = {"z": 1, "a": [1.5, None, "ä"], "m": {"y": True}}
    folder.write_yaml("c.yaml", data)
    assert data == folder.read_yaml("c.yaml")
    assert ["z", "a", "m"] == list(folder.read_yaml("c.yaml"))


def test_yaml_with_a_python_object_is_not_executed(folder: Folder) -> None:
    folder.write("c.yaml", b"!!python/object/apply:os.getcwd []")
    with pytest.raises(Exception, match="could not determine a constructor"):
        folder.read_yaml("c.yaml")


def test_json_ends_with_a_newline(folder: Folder) -> None:
    folder.write_json("a.json", {"b": 1})
    assert folder.read("a.json").startswith(b'{\n "b": 1,\n "checksum": ')
    assert folder.read("a.json").endswith(b"\n}\n")


def test_a_path_object_and_a_trailing_slash_are_taken(tmp_path: Path) -> None:
    assert Folder(str(tmp_path)) == Folder(tmp_path) == Folder(f"{tmp_path}/")
    assert f"{tmp_path}/a/b" == Folder(tmp_path).path("a", "b")


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path)
    folder.write("a", b"old")

    def dies(*_args: object) -> None:
        raise OSError("the power fails")

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(StorageError, match="power fails"):
        folder.write("a", b"new")
    assert b"old" == folder.read("a")
    assert ["a"] == [path.name for path in tmp_path.iterdir()]


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Folder("~/a").write("b", b"c")
    assert b"c" == (tmp_path / "a" / "b").read_bytes()


def test_half_written_files_are_no_entries(tmp_path: Path) -> None:
    (tmp_path / "a.1234.part").write_bytes(b"")
    assert [] == Folder(tmp_path).names()


def test_a_place_that_cannot_be_looked_up_is_not_taken_for_empty() -> None:
    with pytest.raises(StorageError, match=r"cannot look up 'http://127\.0\.0\.1:1/folder/a'"):
        Folder("http://127.0.0.1:1/folder").exists("a")


@pytest.mark.parametrize("url", ["zip://nowhere/x", "reference://x", "nosuch://x"])
def test_a_file_system_that_cannot_be_opened_is_named(url):
    with pytest.raises(StorageError, match=rf"cannot open '{url}' \(.*\)\. Give a path, or a whole URL"):
        Folder(url).names()
