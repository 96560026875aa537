"""Prompts from local files: where they may be, what may be wrong with them, and how a run goes on."""

import gzip
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import fsspec
import pytest
import torch
from loguru import logger

from dimo_core.conditions import Conditioning
from dimo_core.engine.ranks import ALONE
from dimo_core.errors import ConfigError, SourceError, UsageError
from dimo_core.files.folder import Folder
from dimo_core.jobs.distil import RunResult, distill, open_conditions
from dimo_core.testing import check_conditions
from dimo_divergences import Jeffrey
from dimo_prompts import index, reading
from dimo_prompts.labels import Labels
from dimo_prompts.prompts import PromptList, Prompts

TEXT = Conditioning(kind="text")
LABELS = Conditioning(kind="label", classes=("even", "odd"))


@pytest.fixture(autouse=True)
def alone(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of one's own, and no waiting between attempts."""
    monkeypatch.setenv("DIMO_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(reading, "FIRST_WAIT", 0.0)


@pytest.fixture
def log() -> Iterator[list[str]]:
    lines: list[str] = []
    number = logger.add(lines.append, format="{message}", level="INFO")
    yield lines
    logger.remove(number)


def shard(prompts: list[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for number, prompt in enumerate(prompts):
            content = prompt.encode()
            info = tarfile.TarInfo(f"{number:03d}.txt")
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def some(first: int, count: int) -> list[str]:
    return [f"prompt {number}" for number in range(first, first + count)]


def epoch(url: Any, **options: Any) -> list[str]:
    """One epoch, in the order of the files."""
    options = {"shuffle": False, "retries": 1} | options
    stream = Prompts(url=url, **options).open(TEXT, seed=0)
    return stream.read(0, len(stream))


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Three shards of 4, 5 and 6 prompts."""
    for place, (first, count) in enumerate([(0, 4), (4, 5), (9, 6)]):
        (tmp_path / f"train-{place:02d}.tar").write_bytes(shard(some(first, count)))
    return tmp_path


@pytest.mark.parametrize("pattern", ["train-{00..02}.tar", "train-*.tar", "train-0[0-2].tar"])
def test_braces_and_wildcards_name_shards(three: Path, pattern: str) -> None:
    assert some(0, 15) == epoch(f"{three}/{pattern}")
    assert some(0, 15) == epoch(f"file://{three}/{pattern}")


def test_prompts_may_be_at_any_fsspec_url_and_in_files_of_several_formats() -> None:
    filesystem = fsspec.filesystem("memory")
    lines = "".join(f"{prompt}\n" for prompt in some(4, 3)).encode()
    filesystem.pipe_file("/prompts/a.tar", shard(some(0, 4)))
    filesystem.pipe_file("/prompts/b.txt", lines)
    filesystem.pipe_file("/prompts/c.txt.gz", gzip.compress(lines))
    filesystem.pipe_file("/prompts/d.jsonl", b'{"prompt": "last"}\n')
    try:
        expected = [*some(0, 7), *some(4, 3), "last"]
        assert expected == epoch("memory://prompts/*")
        assert expected == epoch(["memory://prompts/{a.tar,b.txt,c.txt.gz}", "memory://prompts/d.jsonl"])
    finally:
        filesystem.rm("/prompts", recursive=True)


@pytest.mark.parametrize("ending", ["txt", "jsonl"])
def test_long_files_of_lines_are_read_in_parts(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "LINES", 10)
    prompts = [f"Möwe\u2028{number}\rx" for number in range(35)]
    rows = prompts if ending == "txt" else [json.dumps({"prompt": p}, ensure_ascii=False) for p in prompts]
    text = "\ufeff" + "\r\n".join([*rows[:9], "", "", *rows[9:]])
    (tmp_path / f"a.{ending}").write_bytes(text.encode())
    stream = Prompts(url=f"{tmp_path}/a.{ending}", shuffle=False).open(TEXT, seed=0)
    assert [9, 9, 10, 7] == stream.counts
    assert prompts * 2 == stream.read(0, 70)


def test_compressed_files_are_read_as_one_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "LINES", 10)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("\n".join(some(0, 35)).encode()))
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(shard(some(35, 3))))
    assert some(0, 38) == epoch(f"{tmp_path}/*.gz")


def test_the_shipped_sources_pass_the_conformance_kit(three: Path, tiny_teacher: Any) -> None:
    teacher = speaking(tiny_teacher)
    check_conditions(Prompts(url=f"{three}/*.tar"), teacher)
    check_conditions(PromptList(prompts=("a cat", "a dog", "an eel")), teacher)


def test_a_teacher_of_labels_is_told_to_take_another_source(three: Path) -> None:
    for source in (Prompts(url=f"{three}/*.tar"), PromptList(prompts=["a cat"])):
        for use in (lambda s: s.open(LABELS, seed=0), lambda s: s.balanced(LABELS, 1)):
            with pytest.raises(
                UsageError, match="gives text, but the teacher takes 'label' conditions with 2"
            ):
                use(source)
    with pytest.raises(UsageError, match="the teacher takes 'text' conditions"):
        Labels().open(TEXT, seed=0)


@pytest.mark.parametrize("url", ["pipe:touch hacked", "{pipe:cat,x}.tar", "simplecache::pipe:cat a.tar"])
def test_urls_that_run_commands_are_refused(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for use in (lambda s: s.open(TEXT, seed=0), lambda s: s.balanced(TEXT, 1)):
        with pytest.raises(UsageError, match="would run a shell command"):
            use(Prompts(url=url))
    assert [] == [*tmp_path.iterdir()]


@pytest.mark.parametrize("names", ["a", "ab"])
def test_an_empty_file_is_said_to_be_empty(tmp_path: Path, names: str) -> None:
    for name in names:
        (tmp_path / f"{name}.txt").write_bytes(b"\n")
    more = " and 1 more" if len(names) > 1 else ""
    with pytest.raises(UsageError, match=rf"^conditions\.url: '.*a\.txt'{more}: empty\. Name files"):
        epoch(f"{tmp_path}/[ab].txt")


@pytest.mark.parametrize("content", [shard([]), b"", shard([" ", "\n"])])
def test_an_empty_source_is_an_error_at_the_start(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(UsageError, match=r"0 prompts can be read|a\.tar': empty"):
        epoch(f"{tmp_path}/a.tar", max_broken=1)
    with pytest.raises(UsageError, match="no prompts to evaluate with"):
        Prompts(url=f"{tmp_path}/a.tar").balanced(TEXT, 1)
    with pytest.raises(ValueError, match="prompts"):
        PromptList(prompts=())


@pytest.mark.parametrize("ending", ["txt", "tar", "jsonl", "txt.gz"])
def test_a_missing_file_is_named_with_its_option(tmp_path: Path, ending: str) -> None:
    url = f"{tmp_path}/none.{ending}"
    with pytest.raises(UsageError) as failure:
        Prompts(url=url).open(TEXT, seed=0)
    for part in (f"no file {url!r}, which conditions.url names", "takes paths and fsspec URLs", "Check"):
        assert part in str(failure.value)
    with pytest.raises(UsageError, match=r"no file .*, which conditions\.held_out names"):
        Prompts(url=url, held_out=url).balanced(TEXT, 2)
    with pytest.raises(UsageError, match=r"no file .*a\.txt', nor any of 1 others, which conditions\.url"):
        Prompts(url=[f"{tmp_path}/{name}.txt" for name in "ab"]).open(TEXT, seed=0)


def damaged(kind: str) -> bytes | None:
    whole = shard(some(4, 5))
    return {
        "truncated": whole[:2600],
        "truncated between members": whole[:3072],
        "garbage": bytes(range(256)) * 20,
        "duplicate": whole[:3072] + whole[2048:],
        "missing": None,
    }[kind]


LEFT = {"truncated": 1, "truncated between members": 1, "garbage": 0, "duplicate": 1, "missing": 0}
"""So many prompts at least are read of five."""


@pytest.mark.parametrize("kind", LEFT)
def test_a_damaged_shard_is_read_as_far_as_possible_named_and_survived(
    three: Path, kind: str, log: list[str]
) -> None:
    content = damaged(kind)
    (three / "train-01.tar").unlink()
    if content is not None:
        (three / "train-01.tar").write_bytes(content)
    found = epoch(f"{three}/train-{{00..02}}.tar")
    left = found[4:-6]
    assert [*some(0, 4), *some(4, len(left)), *some(9, 6)] == found
    assert LEFT[kind] <= len(left) < 5
    (named,) = [line for line in log if line.startswith("not read")]
    assert f"{three}/train-01.tar" in named
    assert "object at" not in named
    with pytest.raises(UsageError, match=r"1 of 2 files not to their end \(of 3\).*train-01\.tar"):
        epoch(f"{three}/train-{{00..02}}.tar", max_broken=0)


def test_two_lost_files_of_three_are_too_many(three: Path) -> None:
    for place in (0, 2):
        (three / f"train-{place:02d}.tar").unlink()
    with pytest.raises(UsageError, match=r"2 of 3 files not to their end.*train-00.tar \(no such file\)"):
        epoch(f"{three}/train-{{00..02}}.tar")
    assert some(4, 5) == epoch(f"{three}/train-{{00..02}}.tar", max_broken=0.7)


def test_broken_prompts_are_counted_named_and_survived_up_to_a_limit(tmp_path: Path, log: list[str]) -> None:
    broken = [b"\xff"] * 25
    (tmp_path / "a.txt").write_bytes(b"\n".join([*broken, *(p.encode() for p in some(0, 75))]))
    with pytest.raises(
        UsageError, match=r"75 prompts can be read and 25 cannot.*0\.24: .*a\.txt, line 1 \(no UTF-8"
    ):
        epoch(f"{tmp_path}/a.txt", max_broken=0.24)
    log.clear()
    assert some(0, 75) == epoch(f"{tmp_path}/a.txt", max_broken=0.25)
    assert 20 == sum(line.startswith("not read") for line in log)
    assert any(line.startswith("left out: 25 prompts") for line in log)


def test_a_few_broken_prompts_are_always_survived_unless_none_may_be(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\n".join([b"\xff"] * 10 + [b"a cat"]))
    assert ["a cat"] == epoch(f"{tmp_path}/a.txt")
    with pytest.raises(UsageError, match="1 prompts can be read and 10 cannot"):
        epoch(f"{tmp_path}/a.txt", max_broken=0)


def test_a_field_that_no_sample_has_is_an_error_after_a_few_files(tmp_path: Path) -> None:
    for place in range(20):
        (tmp_path / f"{place:02d}.tar").write_bytes(shard(some(0, 10)))
    with pytest.raises(UsageError, match=r"0 of 3 files .* \(of 20\).*no member caption; there are txt"):
        epoch(f"{tmp_path}/*.tar", field="caption", threads=1)


def test_a_name_that_says_no_format_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a cat")
    with pytest.raises(UsageError, match="name its format"):
        epoch([f"{tmp_path}/a.txt", f"{tmp_path}/missing"])
    (tmp_path / "a").write_bytes(b"a cat")
    assert ["a cat"] == epoch(f"{tmp_path}/a", format="text")


def test_a_shard_that_has_gone_is_named_with_the_way_on(three: Path) -> None:
    stream = Prompts(url=f"{three}/*.tar", retries=1, shuffle=False, prefetch=0).open(TEXT, seed=0)
    path = three / "train-01.tar"
    whole = path.read_bytes()
    path.unlink()
    assert some(0, 4) == stream.read(0, 4)
    message = r"train-01\.tar could be read when this run was started.*2 attempts.*--resume"
    with pytest.raises(SourceError, match=message):
        stream.read(0, 5)
    path.write_bytes(whole)
    assert some(0, 15) == stream.read(0, 15)


@pytest.mark.parametrize(
    ("prompts", "reason"),
    [(some(4, 3), "holds 3 prompts, and held 5"), (some(5, 5), "others than they were")],
)
def test_a_shard_that_has_changed_is_an_error(three: Path, prompts: list[str], reason: str) -> None:
    stream = Prompts(url=f"{three}/*.tar", retries=0, shuffle=False, prefetch=0).open(TEXT, seed=0)
    (three / "train-01.tar").write_bytes(shard(prompts))
    with pytest.raises(SourceError, match=reason):
        stream.read(4, 1)


def test_a_file_of_lines_that_has_become_shorter_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a cat\na dog\n")
    stream = Prompts(url=f"{tmp_path}/a.txt", retries=0).open(TEXT, seed=0)
    (tmp_path / "a.txt").write_text("a cat\n")
    with pytest.raises(SourceError, match="6 of 12 bytes"):
        stream.read(0, 1)


def test_a_file_that_grows_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a cat\na dog\n")
    (tmp_path / "b.tar").write_bytes(shard(some(0, 3)))
    stream = Prompts(url=f"{tmp_path}/*", shuffle=False).open(TEXT, seed=0)
    (tmp_path / "a.txt").write_text("a cat\na dog\nan eel\n")
    (tmp_path / "b.tar").write_bytes(shard(some(0, 4)))
    assert ["a cat", "a dog", *some(0, 3), "a cat"] == stream.read(0, 6)


def test_a_stream_opened_by_its_record_reads_the_same_whatever_has_come_or_gone(three: Path) -> None:
    (three / "train-01.tar").rename(three / "away")
    source = Prompts(url=f"{three}/train-{{00..02}}.tar")
    first = source.open(TEXT, seed=3)
    straight = first.read(0, 40)
    record = json.loads(json.dumps(first.record()))
    (three / "away").rename(three / "train-01.tar")
    assert straight[13:] == source.reopen(TEXT, record, seed=3).read(13, 27)
    assert straight != source.open(TEXT, seed=3).read(0, 40)


@pytest.mark.parametrize("record", [{}, {"files": [{"url": "a.tar"}]}, {"files": 3}])
def test_a_foreign_record_is_refused(record: Any) -> None:
    with pytest.raises(UsageError, match="no record of prompts"):
        Prompts(url="a.tar").reopen(TEXT, record, seed=0)


def test_only_a_resumed_run_uses_the_record_in_its_folder(three: Path, tmp_path: Path) -> None:
    source, folder = Prompts(url=f"{three}/train-0[01].tar"), Folder(str(tmp_path / "run"))
    first = source.open(TEXT, seed=0)
    folder.write_json("conditions.json", first.record())
    (three / "train-01.tar").write_bytes(shard(some(4, 50)))
    job: Any = SimpleNamespace(conditions=source, teacher=SimpleNamespace(conditioning=TEXT), seed=0)
    assert 9 == len(open_conditions(job, folder, ALONE, resume=True))
    assert 54 == len(open_conditions(job, folder, ALONE, resume=False))


def test_grids_show_the_first_different_prompts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a cat\na cat\na dog\n\xff\n")
    (tmp_path / "b.txt").write_text("a dog\nan eel\n")
    source = Prompts(url=f"{tmp_path}/*.txt")
    assert ["a cat"] == source.balanced(TEXT, 1)
    assert ["a cat", "a dog", "ÿ", "an eel", "a cat"] == source.balanced(TEXT, 5)


def test_grids_read_no_more_files_than_they_need(three: Path) -> None:
    for place in (1, 2):
        (three / f"train-{place:02d}.tar").unlink()
    source = Prompts(url=f"{three}/train-{{00..02}}.tar")
    assert some(0, 4) == source.balanced(TEXT, 4)
    assert [*some(0, 4), "prompt 0"] == source.balanced(TEXT, 5)


def test_held_out_prompts_are_shown_evenly_spread_and_read_once(three: Path) -> None:
    source = Prompts(url=f"{three}/train-00.tar", held_out=f"{three}/train-0[12].tar")
    assert ["prompt 4", "prompt 7", "prompt 11"] == source.balanced(TEXT, 3)
    for place in (1, 2):
        (three / f"train-{place:02d}.tar").unlink()
    assert [*some(4, 11), "prompt 4"] == source.balanced(TEXT, 12)
    assert set(some(0, 4)) == set(source.open(TEXT, seed=0).read(0, 50))


def test_a_list_is_written_out_and_shown_evenly() -> None:
    source = PromptList(prompts=["a cat", "a dog", "a cat", "an eel"])
    assert ["a cat", "a cat", "a dog", "an eel"] == sorted(source.open(TEXT, seed=0).read(0, 4))
    assert ["a cat", "a dog", "an eel", "a cat"] == source.balanced(TEXT, 4)
    assert ("a cat",) == PromptList(prompts="a cat").prompts


@pytest.mark.parametrize(
    "options", [{"format": "csv"}, {"max_broken": 2}, {"prefetch": -1}, {"timeout": 0}, {"retries": -1}]
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Prompts(url="a.txt", **options)


def speaking(teacher: Any) -> Any:
    """The tiny teacher, taking text."""

    def encode(self: Any, raw: Any) -> torch.Tensor:
        return torch.tensor([len(prompt) % 2 for prompt in raw])

    kind = property(lambda self: TEXT)
    cls = type(teacher)
    methods = {"__doc__": cls.__doc__, "conditioning": kind, "encode_conditions": encode}
    return attrs.frozen(kw_only=True, slots=False)(type("Speaking", (cls,), methods))()


def short_run(teacher: Any, out: Path, steps: int, **options: Any) -> RunResult:
    train = {"batch_size": 4, "log_every": 1, "checkpoint_every": 2, "sample_every": 100, "steps": steps}
    given = {"divergence": Jeffrey(beta=0.2), "train": train, "device": "cpu", **options}
    return distill(teacher=teacher, out=str(out), **given)


def test_a_run_on_prompts_is_resumed_where_it_was_although_files_have_come(
    tmp_path: Path, tiny_teacher: Any
) -> None:
    teacher, prompts = speaking(tiny_teacher), tmp_path / "prompts"
    prompts.mkdir()
    for place in range(3):
        rows = [f"{'x' * (i % 5)} {place}" for i in range(7)]
        (prompts / f"{place}.txt").write_text("\n".join(rows))
    source = Prompts(url=f"{prompts}/*.txt")
    straight = short_run(teacher, tmp_path / "straight", 6, conditions=source)
    short_run(teacher, tmp_path / "cut", 4, conditions=source)
    (prompts / "3.txt").write_text("another one\n")
    resumed = short_run(teacher, tmp_path / "cut", 6, conditions=source, resume=True)
    expected, found = (run.generator.state_dict() for run in (straight, resumed))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_run_on_prompts_refuses_another_source_on_resumption(tmp_path: Path, tiny_teacher: Any) -> None:
    teacher = speaking(tiny_teacher)
    short_run(teacher, tmp_path / "run", 2, conditions=PromptList(prompts=["a", "bc"]))
    with pytest.raises(ConfigError, match="conditions"):
        short_run(teacher, tmp_path / "run", 4, conditions=PromptList(prompts=["a"]), resume=True)
    assert not (tmp_path / "run" / "conditions.json").exists()
