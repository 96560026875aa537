"""Prompts from an object store: a real S3-speaking server that the tests start (``dimo[test-s3]``)."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dimo_core.conditions import Conditioning
from dimo_core.errors import SourceError, UsageError
from dimo_core.files.folder import Folder
from dimo_core.jobs.distil import open_conditions
from dimo_prompts import index, reading
from dimo_prompts.prompts import Prompts

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TEXT = Conditioning(kind="text")


def shard(prompts: list[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for number, prompt in enumerate(prompts):
            info = tarfile.TarInfo(f"{number:03d}.txt")
            info.size = len(prompt)
            file.addfile(info, io.BytesIO(prompt.encode()))
    return buffer.getvalue()


def some(first: int, count: int) -> list[str]:
    return [f"prompt {number}" for number in range(first, first + count)]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A bucket ``prompts`` with three shards, and a file of lines in two parts."""
    s3fs, moto = (
        pytest.importorskip(name, reason="needs an S3 server: pip install 'dimo[test-s3]'")
        for name in ("s3fs", "moto.server")
    )
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL_S3": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "DIMO_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(reading, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(index, "LINES", 10)
    s3fs.S3FileSystem.clear_instance_cache()
    filesystem = s3fs.S3FileSystem()
    filesystem.mkdir("prompts")
    for place in range(3):
        filesystem.pipe_file(f"prompts/train-{place}.tar", shard(some(10 * place, 10)))
    filesystem.pipe_file("prompts/lines.txt", "\n".join(some(0, 15)).encode())
    yield filesystem
    filesystem.rm("prompts", recursive=True)  # or the next server has it too
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.mark.parametrize("pattern", ["train-{0..2}.tar", "train-*.tar", "train-[0-2].tar"])
def test_shards_are_read_from_a_bucket(store: Any, pattern: str) -> None:
    if "[" in pattern:  # of URLs, only the asterisk is a wildcard
        with pytest.raises(UsageError):
            Prompts(url=f"s3://prompts/{pattern}", retries=0).open(TEXT, seed=0)
        return
    stream = Prompts(url=f"s3://prompts/{pattern}").open(TEXT, seed=0)
    assert sorted(some(0, 30)) == sorted(stream.read(0, 30))
    assert stream.read(30, 50) == Prompts(url=f"s3://prompts/{pattern}").open(TEXT, seed=0).read(30, 50)


def test_long_files_in_a_bucket_are_read_by_ranges(store: Any) -> None:
    stream = Prompts(url="s3://prompts/lines.txt", shuffle=False).open(TEXT, seed=0)
    assert [10, 5] == stream.counts
    assert [*some(12, 3), *some(0, 12)] == stream.read(12, 15)


def test_counts_of_objects_are_kept_until_they_change(store: Any, tmp_path: Path) -> None:
    source = Prompts(url="s3://prompts/train-{0..2}.tar", shuffle=False)
    assert 30 == len(source.open(TEXT, seed=0))
    assert 3 == len([*(tmp_path / "cache" / "prompts").iterdir()])
    store.pipe_file("prompts/train-1.tar", shard(some(10, 4)))
    type(store).clear_instance_cache()
    assert [10, 4, 10] == source.open(TEXT, seed=0).counts


def test_missing_objects_and_buckets_are_named(store: Any) -> None:
    stream = Prompts(url="s3://prompts/train-{0..3}.tar", shuffle=False).open(TEXT, seed=0)
    assert some(0, 30) == stream.read(0, 30)
    with pytest.raises(UsageError, match=r"no file 's3://nowhere/a\.tar'"):
        Prompts(url="s3://nowhere/a.tar").open(TEXT, seed=0)


def test_an_object_that_goes_is_named_and_a_run_goes_on_when_it_is_back(store: Any) -> None:
    source = Prompts(url="s3://prompts/train-*.tar", retries=1, prefetch=0)
    facts = {"seed": 1, "folder": Folder("s3://prompts/run")}
    stream = open_conditions(source, TEXT, resume=False, **facts)
    straight = source.open(TEXT, seed=1).read(0, 60)
    facts["folder"].write_json("conditions.json", stream.record())
    whole = {place: store.cat_file(f"prompts/train-{place}.tar") for place in range(3)}
    for place in whole:
        store.rm(f"prompts/train-{place}.tar")
    with pytest.raises(SourceError, match=r"s3://prompts/train-.\.tar could be read.*--resume"):
        stream.read(25, 5)
    for place, content in whole.items():
        store.pipe_file(f"prompts/train-{place}.tar", content)
    resumed = open_conditions(source, TEXT, resume=True, **facts)
    assert straight[25:] == resumed.read(25, 35)
