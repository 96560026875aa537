"""Prompts from a web server that misbehaves: retries, time limits, ranges, and counts that are kept."""

import gzip
import http.server
import io
import json
import re
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from dimo_core.conditions import Conditioning
from dimo_core.errors import SourceError, UsageError
from dimo_core.texts import masked
from dimo_prompts import index, reading
from dimo_prompts.prompts import Prompts

pytest.importorskip("aiohttp")
TEXT = Conditioning(kind="text")


class Web(http.server.ThreadingHTTPServer):
    """Serves ``files``; ``faults`` of a path befall one request after another."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[str]] = {}
        self.asked: list[tuple[str, str]] = []
        self.ranges, self.tags = True, True
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: Any) -> None:
        """A client that gives up is part of the tests."""

    def gets(self, path: str) -> int:
        return self.asked.count(("GET", path))


class Handler(http.server.BaseHTTPRequestHandler):
    server: Web

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self.answer("HEAD")

    def do_GET(self) -> None:
        self.answer("GET")

    def answer(self, method: str) -> None:
        path = self.path.strip("/").partition("?")[0]
        self.server.asked.append((method, path))
        content = self.server.files.get(path)
        faults = self.server.faults.get(path, [])
        fault = faults.pop(0) if faults and method == "GET" else ""
        if content is None or fault.isdecimal():
            self.send_error(int(fault or 404))
            return
        first, last = 0, len(content) - 1
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked and self.server.ranges:
            first, last = int(asked[1]), min(int(asked[2]), last)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        else:
            self.send_response(200)
        if self.server.tags:
            self.send_header("ETag", f'"{hash(content)}"')
        body = content[first : last + 1]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if method == "GET":
            self.wfile.write(body[: len(body) // 2] if fault else body)
            if fault == "stall":
                self.server.over.wait(60)


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIMO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(reading, "FIRST_WAIT", 0.0)
    return tmp_path / "cache" / "prompts"


@pytest.fixture
def log() -> Iterator[list[str]]:
    lines: list[str] = []
    number = logger.add(lines.append, format="{message}", level="WARNING")
    yield lines
    logger.remove(number)


def some(first: int, count: int) -> list[str]:
    return [f"prompt {number} {'x' * 500}" for number in range(first, first + count)]


def shard(prompts: list[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for number, prompt in enumerate(prompts):
            info = tarfile.TarInfo(f"{number:03d}.txt")
            info.size = len(prompt)
            file.addfile(info, io.BytesIO(prompt.encode()))
    return buffer.getvalue()


def opened(web: Web, names: str, **options: Any) -> Any:
    given = {"shuffle": False, "retries": 2, "prefetch": 0, "threads": 1} | options
    return Prompts(url=f"{web.url}/{names}", **given).open(TEXT, seed=0)


def epoch(web: Web, names: str, **options: Any) -> list[str]:
    stream = opened(web, names, **options)
    return stream.read(0, len(stream))


@pytest.fixture
def three(web: Web) -> Web:
    web.files = {f"{place}.tar": shard(some(10 * place, 10)) for place in range(3)}
    return web


def test_shards_are_streamed_in_one_request_each(three: Web) -> None:
    assert some(0, 30) == epoch(three, "{0..2}.tar")
    assert [2, 2, 2] == [three.gets(f"{place}.tar") for place in range(3)]  # to count, and to read


def test_servers_that_tell_no_version_are_read_too(three: Web, cache: Path) -> None:
    three.tags = False
    assert some(0, 30) == epoch(three, "{0..2}.tar")
    assert not cache.exists()


@pytest.mark.parametrize("ranges", [True, False])
def test_parts_of_long_files_are_read_by_ranges_or_from_the_whole(
    web: Web, ranges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "LINES", 10)
    web.ranges = ranges
    prompts = some(0, 35)
    web.files = {"a.txt": "\n".join(prompts).encode(), "b.txt.gz": gzip.compress(b"a cat\n")}
    stream = opened(web, "{a.txt,b.txt.gz}")
    assert [10, 10, 10, 5, 1] == stream.counts
    assert [*prompts[5:], "a cat", *prompts[:5]] == stream.read(5, 36)


@pytest.mark.parametrize("fault", ["500", "503", "429", "cut", "stall"])
def test_a_failure_that_passes_is_survived(three: Web, fault: str, log: list[str]) -> None:
    three.faults["1.tar"] = [fault, fault]
    stream = opened(three, "{0..2}.tar", timeout=0.3)
    assert 30 == len(stream)
    three.faults["2.tar"] = [fault, fault]
    assert some(0, 30) == stream.read(0, 30)
    assert 4 == sum("attempt" in line for line in log)
    assert [3 + 1, 1 + 3] == [three.gets("1.tar"), three.gets("2.tar")]


@pytest.mark.parametrize(
    ("fault", "reason", "left_of_200"),
    [
        ("404", "no such file", range(1)),
        ("500", "500", range(1)),
        # What has arrived when a connection is lost may be given up by the client with it.
        ("cut", "ClientPayloadError", range(201)),
        ("stall", "Timeout", range(1, 201)),
    ],
)
def test_a_failure_that_stays_costs_the_rest_of_the_file(
    three: Web, fault: str, reason: str, left_of_200: range, log: list[str]
) -> None:
    three.files["1.tar"] = shard(some(10, 400))
    three.faults["1.tar"] = [fault] * 3
    found = opened(three, "{0..2}.tar", timeout=0.3)
    left = len(found) - 20
    assert left in left_of_200
    (named,) = [line for line in log if line.startswith("not read")]
    assert "1.tar" in named
    assert reason in named
    three.faults.clear()
    assert [*some(0, 10), *some(10, left), *some(20, 10)] == found.read(0, len(found))


def test_a_missing_file_is_not_asked_for_again_and_again(three: Web) -> None:
    del three.files["1.tar"]
    assert [*some(0, 10), *some(20, 10)] == epoch(three, "{0..2}.tar")
    assert three.asked.count(("HEAD", "1.tar")) <= 2


def test_an_address_where_nobody_answers_is_an_error_at_the_start(three: Web) -> None:
    with pytest.raises(UsageError, match=r"0 prompts can be read.*127\.0\.0\.1.*Connect"):
        Prompts(url="http://127.0.0.1:9/{0..2}.tar", retries=1, threads=1).open(TEXT, seed=0)


def test_an_error_at_the_start_waits_for_no_connection_and_begins_no_other(web: Web) -> None:
    web.files = {f"{place}.tar": shard(some(0, 10)) for place in range(1, 50)}  # 0 is missing
    web.faults = {name: ["stall"] for name in web.files}
    threads = threading.active_count()
    with pytest.raises(UsageError, match="to their end"):
        opened(web, "{0..49}.tar", threads=2, max_broken=0)
    assert 0 == web.gets("49.tar")
    assert all(thread.daemon for thread in threading.enumerate()[threads:])


def test_wildcards_that_the_server_cannot_look_up_are_named(web: Web) -> None:
    with pytest.raises(UsageError, match=r"cannot be looked up|no file fits"):
        opened(web, "*.tar")


@pytest.mark.parametrize("fault", ["404", "500", "cut", "stall"])
def test_a_shard_that_goes_during_a_run_is_named_and_the_run_can_be_resumed(three: Web, fault: str) -> None:
    source = Prompts(
        url=f"{three.url}/{{0..2}}.tar", shuffle=False, retries=1, prefetch=0, threads=1, timeout=0.3
    )
    stream = source.open(TEXT, seed=0)
    record = stream.record()
    assert some(0, 7) == stream.read(0, 7)
    three.faults["1.tar"] = [fault] * 2
    with pytest.raises(SourceError, match=r"1\.tar could be read when .*2 attempts.*--resume"):
        stream.read(7, 7)
    before = three.gets("0.tar")
    again = source.reopen(TEXT, record, seed=0)
    assert some(7, 20) == again.read(7, 20)
    assert before + 1 == three.gets("0.tar")  # nothing is counted again


def test_parts_read_ahead_survive_failures_too(three: Web) -> None:
    stream = opened(three, "{0..2}.tar", prefetch=2, retries=0)
    for place in range(3):
        three.faults[f"{place}.tar"] = ["500"]
    with pytest.raises(SourceError):
        stream.read(0, 1)
    assert some(0, 30) == stream.read(0, 30)


def test_counts_are_kept_until_a_file_changes(three: Web, cache: Path) -> None:
    opened(three, "{0..2}.tar")
    before = three.gets("1.tar")
    assert some(10, 1) == opened(three, "{0..2}.tar").read(10, 1)
    assert before + 1 == three.gets("1.tar")
    assert 3 == len([*cache.iterdir()])
    three.files["1.tar"] = shard(some(10, 4))
    assert [10, 4, 10] == opened(three, "{0..2}.tar").counts
    for path in cache.iterdir():
        path.write_text("{")
    assert [10, 4, 10] == opened(three, "{0..2}.tar").counts


def test_counts_of_lost_files_and_of_other_fields_are_not_mixed_up(three: Web, cache: Path) -> None:
    three.faults["1.tar"] = ["cut"] * 3
    assert [10, 10] == opened(three, "{0..2}.tar").counts
    assert [10, 10, 10] == opened(three, "{0..2}.tar").counts
    with pytest.raises(UsageError, match="no member caption"):
        opened(three, "{0..2}.tar", field="caption")


def test_a_cache_that_cannot_be_written_does_no_harm(three: Web, cache: Path, log: list[str]) -> None:
    cache.parent.write_text("no folder")
    assert some(0, 30) == epoch(three, "{0..2}.tar")
    assert any("is not kept" in line for line in log)


def test_grids_survive_failures(three: Web) -> None:
    three.faults["0.tar"] = ["500", "cut"]
    source = Prompts(url=f"{three.url}/{{0..2}}.tar", retries=2)
    assert some(0, 12) == source.balanced(TEXT, 12)
    assert 0 == three.gets("2.tar")


def test_records_have_no_signatures_and_a_run_goes_on_with_new_ones(three: Web, cache: Path) -> None:
    url = f"{three.url}/{{0..2}}.tar?X-Amz-Signature="
    options: dict[str, Any] = {"shuffle": False, "retries": 0, "prefetch": 0, "threads": 1}
    record = masked(Prompts(url=f"{url}ONE", **options).open(TEXT, seed=0).record())
    assert "ONE" not in json.dumps(record) + "".join(kept.read_text() for kept in cache.iterdir())
    before = three.gets("1.tar")
    assert some(7, 20) == Prompts(url=f"{url}TWO", **options).reopen(TEXT, record, seed=0).read(7, 20)
    Prompts(url=f"{url}THREE", **options).open(TEXT, seed=0)
    assert before + 1 == three.gets("1.tar")  # counts are known again too
