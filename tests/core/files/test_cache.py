"""The cache of remote files: fetched once, whole or not at all, usable offline; failures name the URL."""

import contextlib
import hashlib
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from loguru import logger

import dimo_core.files.cache as cache_module
from dimo_core import limits
from dimo_core.errors import CheckpointError
from dimo_core.files.cache import cache_folder, file_sha256, local_copy
from dimo_core.files.urls import client_options

CONTENT = bytes(range(256)) * 40
DIGEST = hashlib.sha256(CONTENT).hexdigest()
URL = "memory://weights/teacher.pth"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIMO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def remote() -> Iterator[MemoryFileSystem]:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/weights/teacher.pth", CONTENT)
    yield fs
    fs.rm("/weights", recursive=True)


def files(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.is_file())


class Handler(http.server.BaseHTTPRequestHandler):
    """``/whole``, ``/cut``, ``/moved``, ``/away``, ``/endless``, ``/trickle``, ``/hesitant``."""

    asked: list[str]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        page = self.path.split("?")[0].strip("/").split(".")[0]
        if page in ("moved", "away"):
            self.send_response(302)
            host = f"http://localhost:{self.server.server_address[1]}" if page == "away" else ""
            self.send_header("Location", f"{host}/whole.pth")
            self.end_headers()
        elif page == "endless":
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while body:
                    self.wfile.write(bytes(2**20))
        elif page in ("trickle", "hesitant"):
            text = b"HTTP/1.0 200 OK\r\nX: " + b"x" * 200 + b"\r\n\r\n" + b"y" * 200
            slow = text.index(b"x" if page == "hesitant" else b"y")
            self.wfile.write(text[:slow])
            with contextlib.suppress(OSError):
                for byte in text[slow : slow + 200]:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.01)
                self.wfile.write(text[slow + 200 :])
        elif page in ("whole", "cut"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            if body:
                self.wfile.write(CONTENT if page == "whole" else CONTENT[:1000])
        else:
            self.send_error(500 if page == "broken" else 404)


@pytest.fixture
def server() -> Iterator[str]:
    Handler.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_local_file_is_its_own_copy(prefix: str, tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(CONTENT)
    assert path == local_copy(f"{prefix}{path}")
    assert path == local_copy(f"{prefix}{path}", sha256=DIGEST.upper())
    with pytest.raises(
        CheckpointError, match=f"is damaged or another file than expected.*{DIGEST}.*{'0' * 64}"
    ):
        local_copy(f"{prefix}{path}", sha256="0" * 64)
    assert not cache.exists()


def test_a_relative_path_stays_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.pth").write_bytes(CONTENT)
    assert Path("a.pth") == local_copy("a.pth")


@pytest.mark.parametrize("url", ["/nowhere/a.pth", "file:///nowhere/a.pth", "/", "memory://weights/none.pth"])
def test_a_missing_file_is_named(url: str, cache: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        local_copy(url)
    assert f"no file {url}" == str(caught.value)
    assert not cache.exists()


def test_a_remote_file_is_fetched_once_and_then_used_offline(remote: MemoryFileSystem, cache: Path) -> None:
    copy = local_copy(URL)
    assert CONTENT == copy.read_bytes()
    assert "teacher.pth" == copy.name
    assert ["teacher.pth"] == files(cache)
    remote.pipe_file("/weights/teacher.pth", b"newer")
    assert copy == local_copy(URL)
    assert CONTENT == copy.read_bytes()
    copy.unlink()
    assert b"newer" == local_copy(URL).read_bytes()


def test_files_of_one_name_do_not_meet(remote: MemoryFileSystem) -> None:
    remote.pipe_file("/weights/other/teacher.pth", b"other")
    assert [CONTENT, b"other"] == [
        local_copy(url).read_bytes() for url in (URL, "memory://weights/other/teacher.pth")
    ]


@pytest.mark.parametrize(
    ("name", "kept"),
    [("a b%20ü.pth", "a_b_20ü.pth"), (".hidden", "hidden"), ("x" * 300 + ".pth", "x" * 116 + ".pth")],
)
def test_names_in_the_cache_are_safe(remote: MemoryFileSystem, name: str, kept: str) -> None:
    remote.pipe_file(f"/weights/{name}", CONTENT)
    copy = local_copy(f"memory://weights/{name}")
    assert kept == copy.name
    assert CONTENT == copy.read_bytes()


def test_a_folder_is_no_file(cache: Path) -> None:
    with pytest.raises(CheckpointError, match=r"memory://weights is a folder"):
        local_copy("memory://weights")
    assert [] == files(cache)


def test_the_download_is_logged_with_its_size() -> None:
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}", level="INFO")
    try:
        copy = local_copy(URL)
        local_copy(URL)
    finally:
        logger.remove(sink)
    assert [f"fetching {URL} (10.2 kB) into {copy.parent}\n"] == lines


class TestDigests:
    def test_the_expected_file_is_kept(self, cache: Path) -> None:
        assert DIGEST == file_sha256(local_copy(URL, sha256=DIGEST))
        assert ["teacher.pth"] == files(cache)

    def test_another_file_never_enters_the_cache(self, cache: Path) -> None:
        with pytest.raises(CheckpointError) as caught:
            local_copy(URL, sha256="0" * 64)
        assert f"{URL} is damaged or another file than expected" in str(caught.value)
        assert f"its SHA-256 is {DIGEST}, expected {'0' * 64}" in str(caught.value)
        assert [] == files(cache)

    def test_a_copy_that_differs_is_fetched_again(self) -> None:
        copy = local_copy(URL)
        copy.write_bytes(b"rotten")
        assert copy == local_copy(URL, sha256=DIGEST)
        assert CONTENT == copy.read_bytes()

    def test_a_copy_is_not_lost_when_the_source_has_changed_too(self, remote: MemoryFileSystem) -> None:
        copy = local_copy(URL)
        remote.pipe_file("/weights/teacher.pth", b"newer")
        with pytest.raises(CheckpointError, match="another file than expected"):
            local_copy(URL, sha256="0" * 64)
        assert CONTENT == copy.read_bytes()
        assert copy == local_copy(URL, sha256=DIGEST)


class TestHttp:
    def test_a_file_comes_whole_and_once(self, server: str, cache: Path) -> None:
        copy = local_copy(f"{server}/whole.pth?download=true#x", sha256=DIGEST)
        assert CONTENT == copy.read_bytes()
        assert "whole.pth" == copy.name
        assert copy == local_copy(f"{server}/whole.pth?download=true#x")
        assert 1 == len(Handler.asked)

    def test_a_redirect_is_followed(self, server: str) -> None:
        assert CONTENT == local_copy(f"{server}/moved.pth").read_bytes()

    def test_another_host_is_asked_only_if_that_is_allowed(
        self, server: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(
            CheckpointError, match=r"sends to http://localhost, .* set DIMO_REDIRECTS=localhost"
        ):
            local_copy(f"{server}/away.pth")
        monkeypatch.setenv("DIMO_REDIRECTS", "example.org, localhost")
        assert CONTENT == local_copy(f"{server}/away.pth").read_bytes()

    def test_what_has_no_end_is_given_up_where_there_is_no_room(
        self, server: str, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limits, "FETCHED", 2**22)
        with pytest.raises(CheckpointError, match=r"more than 4\.2 MB came, and there is room for no more"):
            local_copy(f"{server}/endless.pth")
        assert [] == files(cache)
        monkeypatch.setattr(limits, "FETCHED", 9)
        with pytest.raises(CheckpointError, match=r"has 10\.2 kB, and .* has room for 9 bytes"):
            local_copy(f"{server}/whole.pth")

    @pytest.mark.parametrize(
        ("page", "reason"),
        [
            ("trickle", r"\d+ bytes came in 1 s; 1,000 a second is the least"),
            ("hesitant", "there was no answer within 1 s"),
        ],
    )
    def test_what_trickles_is_given_up(
        self, server: str, cache: Path, monkeypatch: pytest.MonkeyPatch, page: str, reason: str
    ) -> None:
        monkeypatch.setattr(cache_module, "client_options", partial(client_options, silence=1.0))
        with pytest.raises(CheckpointError, match=f"cannot fetch {server}/{page}.pth: .*{reason}"):
            local_copy(f"{server}/{page}.pth")
        assert [] == files(cache)

    def test_a_slow_reader_is_no_slow_server(self, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "TRICKLE", 10**9)
        with fsspec.open(f"{server}/whole.pth", block_size=0, **client_options(server, 1.0)) as file:
            parts = [file.read(1)]
            time.sleep(1.1)
            assert CONTENT == b"".join([*parts, file.read()])

    def test_a_file_is_known_again_without_its_signature(self, server: str) -> None:
        copy = local_copy(f"{server}/whole.pth?a=1&sig=ONE")
        for other in ("sig=TWO", "sig=***"):
            assert copy == local_copy(f"{server}/whole.pth?a=1&{other}")
        assert 1 == len(Handler.asked)
        with pytest.raises(CheckpointError, match="its user name, password or signature was left out"):
            local_copy(f"{server}/other.pth?sig=***")

    def test_a_missing_file_is_named(self, server: str, cache: Path) -> None:
        with pytest.raises(CheckpointError, match=f"^no file {server}/none.pth$"):
            local_copy(f"{server}/none.pth")
        assert [] == files(cache)

    @pytest.mark.parametrize(("page", "reason"), [("cut", "ClientPayloadError"), ("broken", "500")])
    def test_a_failure_leaves_nothing(self, server: str, cache: Path, page: str, reason: str) -> None:
        with pytest.raises(CheckpointError, match=f"cannot fetch {server}/{page}.pth: .*{reason}"):
            local_copy(f"{server}/{page}.pth")
        assert [] == files(cache)

    def test_no_server_is_an_error(self, cache: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{free.getsockname()[1]}/a.pth"
            with pytest.raises(CheckpointError, match=f"cannot fetch {url}: ClientConnector"):
                local_copy(url)
        assert [] == files(cache)


def test_a_short_file_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        MemoryFileSystem, "get_file", lambda self, source, target, **_: Path(target).write_bytes(CONTENT[:99])
    )
    with pytest.raises(CheckpointError, match=f"{URL} came with 99 of 10240 bytes"):
        local_copy(URL)
    assert [] == files(cache)


def test_an_interrupt_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: object, source: str, target: str, **_: object) -> None:
        Path(target).write_bytes(CONTENT[:99])
        assert 1 == len(files(cache))
        raise KeyboardInterrupt

    monkeypatch.setattr(MemoryFileSystem, "get_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        local_copy(URL)
    assert [] == files(cache)


def test_what_a_killed_process_left_does_not_count(cache: Path) -> None:
    copy = local_copy(URL)
    copy.rename(copy.with_name("teacher.pth.1234abcd.part"))
    copy.with_name("teacher.pth.1234abcd.part").write_bytes(b"half")
    assert CONTENT == local_copy(URL).read_bytes()


def test_several_at_once_do_not_disturb_each_other(server: str, cache: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        copies = [*pool.map(lambda _: local_copy(f"{server}/whole.pth"), range(12))]
    assert {CONTENT} == {copy.read_bytes() for copy in copies}
    assert ["whole.pth"] == files(cache)


def test_two_processes_at_once_do_not_disturb_each_other(server: str, cache: Path) -> None:
    code = "import sys; from dimo_core.files.cache import local_copy; print(local_copy(sys.argv[1]))"
    command = [sys.executable, "-c", code, f"{server}/whole.pth"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    outputs = [process.communicate() for process in running]
    assert [0, 0] == [process.returncode for process in running], outputs
    assert {f"{next(cache.rglob('whole.pth'))}{os.linesep}".encode()} == {out for out, _ in outputs}
    assert ["whole.pth"] == files(cache)


@pytest.mark.parametrize(
    ("protocol", "library", "remedy"),
    [
        ("s3", "s3fs", r"pip install 'dimo\[s3\]'"),
        ("hf", "huggingface_hub", r"pip install 'dimo\[hub\]'"),
        ("https", "aiohttp", "aiohttp"),
        ("gs", "gcsfs", "gcsfs"),
    ],
)
def test_a_missing_library_is_named(
    protocol: str, library: str, remedy: str, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)
    with pytest.raises(
        CheckpointError, match=f"cannot open {protocol}://a/b.pth, a library is missing: .*{remedy}"
    ):
        local_copy(f"{protocol}://a/b.pth")
    assert not cache.exists()


def test_an_unknown_protocol_is_an_error() -> None:
    with pytest.raises(
        CheckpointError, match=r"cannot fetch nope://a/b.pth: ValueError: Protocol not known: nope"
    ):
        local_copy("nope://a/b.pth")


def test_a_copy_needs_no_library(cache: Path) -> None:
    copy = cache / hashlib.sha256(b"nope://a/b.pth").hexdigest()[:16] / "b.pth"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(CONTENT)
    assert copy == local_copy("nope://a/b.pth", sha256=DIGEST)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert tmp_path / "cache" == cache_folder()
    monkeypatch.delenv("DIMO_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert tmp_path / "xdg" / "dimo" == cache_folder()
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert tmp_path / ".cache" / "dimo" == cache_folder()
    monkeypatch.setenv("DIMO_CACHE", "~/own")
    assert tmp_path / "own" == cache_folder()
