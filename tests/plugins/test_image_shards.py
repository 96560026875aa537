"""Images in tar files: where they may be, what may be wrong with them, and a pretraining on them."""

import functools
import gzip
import http.server
import io
import json
import sys
import tarfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from dimo_core.config.pretrain import PretrainDraft
from dimo_core.data.feeds import CachedFeed
from dimo_core.data.token_cache import TokenCache
from dimo_core.errors import MissingLibraryError, UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.owner import owned
from dimo_core.files.urls import expanded
from dimo_core.jobs.pretrain import pretrain
from dimo_core.registry import Registry
from dimo_core.sources import Picture
from dimo_images.shards import ImageShards

CLASSES = ("cat", "dog", "eel")


def image(number: int, form: str = "png") -> bytes:
    """Noise that is the same for the same number."""
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def sample(number: int) -> dict[str, bytes]:
    return {f"{number:03d}.png": image(number), f"{number:03d}.cls": str(number % 3).encode()}


def tar(members: Mapping[str, bytes] | list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, content in members.items() if isinstance(members, Mapping) else members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def shard(first: int, count: int = 4) -> bytes:
    members: dict[str, bytes] = {}
    for number in range(first, first + count):
        members |= sample(number)
    return tar(members)


def read(url: Any, **options: Any) -> list[Picture]:
    data = ImageShards(**{"url": url, "classes": 3, "size": 8} | options)
    stream = data.open("train")
    return [picture for name in stream.shards for picture in stream.read(name)]


def numbers(pictures: list[Picture]) -> list[int]:
    """Which images these are."""
    known = {torch.from_numpy(np.array(Image.open(io.BytesIO(image(i))))).sum().item(): i for i in range(40)}
    return [known[int(picture.image.sum())] for picture in pictures if picture.image is not None]


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Three shards of four images."""
    for place in range(3):
        (tmp_path / f"train-{place:02d}.tar").write_bytes(shard(4 * place))
    return tmp_path


@pytest.mark.parametrize(
    "pattern",
    ["train-{00..02}.tar", "train-*.tar", "train-0[0-2].tar", "{train,train}-00.tar"],
)
def test_braces_and_wildcards_name_shards(three: Path, pattern: str) -> None:
    if pattern.startswith("{"):
        with pytest.raises(UsageError, match="named twice"):
            read(f"{three}/{pattern}")
    else:
        pictures = read(f"{three}/{pattern}")
        assert [*range(12)] == numbers(pictures)
        assert [i % 3 for i in range(12)] == [picture.label for picture in pictures]


def test_labels_that_are_names_of_numbers_are_no_indices(three: Path) -> None:
    members = {
        f"{i}.{ending}": content
        for i in (1, 2, 3, 0)
        for ending, content in (("png", image(i)), ("cls", str(i).encode()))
    }
    (three / "named.tar").write_bytes(tar(members))
    pictures = read(str(three / "named.tar"), classes=("1", "2", "3"))
    assert [0, 1, 2] == [picture.label for picture in pictures[:3]]
    assert "label '0' is no class" in pictures[3].error


def test_as_many_images_are_broken_as_a_dotted_key_hides(three: Path) -> None:
    members = {
        f"cam.{i:02d}.{ending}": content
        for i in range(12)
        for ending, content in (("png", image(i)), ("cls", b"0"))
    }
    (three / "dotted.tar").write_bytes(tar(members))
    pictures = read(str(three / "dotted.tar"))
    assert 12 == len(pictures)
    assert pictures[3].error == "cam.03.png: keys must have no dots, cam is taken for the key"
    with pytest.raises(UsageError, match=r"12 of 12 images cannot be read.*keys must have no dots"):
        ImageShards(url=str(three / "dotted.tar"), classes=1, size=8).load("train")


def test_several_patterns_keep_their_order(three: Path) -> None:
    assert [8, 9, 10, 11, 0, 1, 2, 3] == numbers(
        read([f"{three}/train-02.tar", f"{three}/train-{{00..00}}.tar"])
    )


def test_shards_may_be_at_any_fsspec_url() -> None:
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe_file("/image-shards/a.tar", shard(0))
    filesystem.pipe_file("/image-shards/b.tar", shard(4))
    try:
        for url in ("memory://image-shards/*.tar", "memory://image-shards/{a,b}.tar"):
            assert [*range(8)] == numbers(read(url))
    finally:
        filesystem.rm("/image-shards", recursive=True)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def server(three: Path) -> Iterator[str]:
    """A web server with the three shards."""
    handler = functools.partial(Quiet, directory=str(three))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{web.server_address[1]}"
        web.shutdown()
        thread.join()


def test_shards_are_read_from_a_web_server(server: str) -> None:
    pytest.importorskip("aiohttp")
    assert [*range(12)] == numbers(read(server + "/train-{00..02}.tar"))
    pictures = read(server + "/train-{02..03}.tar")
    assert [8, 9, 10, 11] == numbers(pictures)
    assert (True, "FileNotFoundError") == (pictures[-1].lost, pictures[-1].error.partition(":")[0])


def test_an_unknown_protocol_and_a_missing_library_are_named_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(UsageError, match="Protocol not known: gopher"):
        read("gopher://hole/a.tar")
    with pytest.raises(MissingLibraryError, match="s3fs"):
        read("s3://bucket/a.tar")


@pytest.mark.parametrize("url", ["pipe:touch hacked; cat a.tar", " PIPE:cat a.tar", "{pipe:cat,x}.tar"])
def test_urls_that_run_commands_are_refused(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="would run a shell command"):
        read(url)
    assert [] == [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        ("*.tar", "no file fits"),
        ([], "no shards are given"),
        ("a-{0..3.tar", "brace"),
        ("simplecache::s3://bucket/*.tar", "chained"),
    ],
)
def test_patterns_that_name_nothing_are_refused(
    urls: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        expanded(urls)


def test_question_marks_of_web_addresses_are_no_wildcards() -> None:
    pytest.importorskip("aiohttp")
    url = "https://host.example/a.tar?signature=[1]"
    assert [url] == expanded(url)


def broken(pictures: list[Picture]) -> list[tuple[str, str]]:
    return [(picture.key.rpartition("::")[2], picture.error) for picture in pictures if picture.image is None]


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"a.jpg": b"no jpeg", "a.cls": b"0"}, "none of the formats"),
        ({"a.jpg": image(1, "jpeg")[:300], "a.cls": b"0"}, "(?i)truncated"),
        ({"a.png": b"", "a.cls": b"0"}, "none of the formats"),
        ({"a.png": image(1)}, "no label: there is no member cls"),
        ({"a.png": image(1), "a.cls": b"3"}, "label '3' is no class"),
        ({"a.png": image(1), "a.cls": b"-1"}, "label '-1' is no class"),
        ({"a.png": image(1), "a.cls": b"yak"}, "label 'yak' is no class"),
        ({"a.png": image(1), "a.cls": b"\xff"}, "no label: cls cannot be read"),
        ({"a.cls": b"1", "a.txt": b"a cat"}, "no member jpg, jpeg, png, webp; there are cls, txt"),
    ],
)
def test_a_broken_sample_is_named_and_the_others_are_read(
    tmp_path: Path, members: dict[str, bytes], error: str
) -> None:
    (tmp_path / "a.tar").write_bytes(tar(sample(0) | members | sample(5)))
    pictures = read(f"{tmp_path}/a.tar")
    assert [0, 5] == numbers(pictures)
    ((key, reason),) = broken(pictures)
    assert "a" == key
    with pytest.raises(AssertionError, match=error):
        raise AssertionError(reason)


@pytest.mark.parametrize("form", ["jpg", "jpeg", "png", "webp"])
def test_images_of_all_formats_are_read(tmp_path: Path, form: str) -> None:
    content = image(1, "jpeg" if form == "jpg" else form)
    (tmp_path / "a.tar").write_bytes(tar({f"a.{form}": content, "a.cls": b"2\n"}))
    (picture,) = read(f"{tmp_path}/a.tar")
    assert (2, (3, 8, 8)) == (picture.label, tuple(picture.image.shape))


@pytest.mark.parametrize(
    ("label", "document", "expected"),
    [
        ("json.label", {"label": 2}, 2),
        ("json.label", {"label": "2"}, 2),
        ("json.label", {"label": "eel"}, 2),
        ("json.meta.class", {"meta": {"class": "dog"}}, 1),
        ("json.label", {"other": 2}, None),
        ("json.label", {"label": True}, None),
        ("json.label", {"label": 1.5}, None),
        ("json.label", [1], None),
    ],
)
def test_labels_may_be_fields_of_a_json_member(
    tmp_path: Path, label: str, document: Any, expected: int | None
) -> None:
    (tmp_path / "a.tar").write_bytes(tar({"a.png": image(1), "a.json": json.dumps(document).encode()}))
    (picture,) = read(f"{tmp_path}/a.tar", classes=CLASSES, label=label)
    if expected is None:
        assert "label" in picture.error
    else:
        assert expected == picture.label


@pytest.mark.parametrize("text", [b"9" * 5000, b"[" * 100_000], ids=["number", "depth"])
def test_a_label_of_absurd_json_is_wrong_and_costs_its_sample_only(tmp_path: Path, text: bytes) -> None:
    members = {"a.png": image(1), "a.json": text, "b.png": image(1), "b.json": b'{"label": 1}'}
    (tmp_path / "a.tar").write_bytes(tar(members))
    wrong, good = read(f"{tmp_path}/a.tar", classes=CLASSES, label="json.label")
    assert ("no label" in wrong.error, 1) == (True, good.label)


def damaged(kind: str) -> bytes | None:
    whole = shard(4)
    return {
        "truncated": whole[:4700],
        "truncated header": whole[:5220],
        "truncated between members": whole[:5120],
        "garbage": bytes(range(256)) * 20,
        "empty": b"",
        "duplicate": tar([*sample(4).items(), *sample(5).items(), *sample(5).items()]),
        "truncated gzip": gzip.compress(whole)[:-400],
        "missing": None,
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "truncated",
        "truncated header",
        "truncated between members",
        "garbage",
        "empty",
        "duplicate",
        "truncated gzip",
        "missing",
    ],
)
def test_a_damaged_shard_is_read_as_far_as_possible_and_the_others_too(three: Path, kind: str) -> None:
    content, name = damaged(kind), f"{three}/train-01.tar"
    Path(name).unlink()
    if content is not None:
        Path(name).write_bytes(content)
    pictures = read(f"{three}/train-{{00..02}}.tar")
    got = numbers(pictures)
    assert ([0, 1, 2, 3], [8, 9, 10, 11]) == (got[:4], got[-4:])
    assert (1 if kind.startswith("truncated") or kind == "duplicate" else 0) <= len(got) - 8 < 4
    *_, (key, reason) = broken(pictures)
    assert [name] == [picture.key for picture in pictures if picture.lost]
    assert name == key
    assert reason
    assert "object at" not in reason


def test_compressed_shards_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(shard(0)))
    assert [0, 1, 2, 3] == numbers(read(f"{tmp_path}/a.tar.gz"))


def test_mirror_images_have_the_label_of_their_images(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(shard(1, 2))
    one, mirror, *_ = read(f"{tmp_path}/a.tar", mirrored=True)
    assert torch.equal(one.image.flip(-1), mirror.image)
    assert (1, 1) == (one.label, mirror.label)


def test_classes_are_a_number_names_or_a_text_file(three: Path) -> None:
    (three / "names.txt").write_bytes(b"\xef\xbb\xbfcat\ndog\n\neel\n")
    for given, names in ((3, ("0", "1", "2")), (CLASSES, CLASSES), (f"{three}/names.txt", CLASSES)):
        assert names == ImageShards(url=f"{three}/*.tar", classes=given).open("train").classes


@pytest.mark.parametrize(
    ("classes", "message"), [(0, "one or more"), (("a", "a"), "different"), ("nowhere.txt", "class names")]
)
def test_classes_that_cannot_be_used_are_refused(three: Path, classes: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ImageShards(url=f"{three}/*.tar", classes=classes).open("train")


def test_a_held_out_part_has_shards_of_its_own(three: Path) -> None:
    data = ImageShards(url=f"{three}/train-00.tar", held_out=f"{three}/train-02.tar", classes=3, size=8)
    assert ("train", "held-out") == tuple(data.splits())
    examples = data.load("held-out")
    assert [2, 0, 1, 2] == examples.labels.tolist()
    with pytest.raises(UsageError, match="Known: train, held-out"):
        data.open("test")
    with pytest.raises(UsageError, match="Known: train"):
        ImageShards(url=f"{three}/*.tar", classes=3).open("held-out")


def job(out: Path, data: dict[str, Any], steps: int = 4, **options: Any) -> Any:
    return PretrainDraft.resolve(
        {
            "teacher": "maskgit",
            "model": {"width": 16, "depth": 1, "heads": 2, "mlp": 32, "codes": 16},
            "data": {"size": 8, **data},
            "train": {"steps": steps, "batch_size": 8, "log_every": 1, "checkpoint_every": 2},
            "out": str(out),
            "device": "cpu",
            **options,
        }
    )


def weights(folder: Folder) -> dict[str, torch.Tensor]:
    teacher = Registry.discover().load("teacher", "maskgit")(checkpoint=folder.url)
    return dict(teacher.network().state_dict())


def equal(one: Folder, other: Folder) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_pretraining_on_a_folder_and_on_shards_of_the_same_images_is_the_same(tmp_path: Path) -> None:
    images = sorted(range(12), key=lambda number: number % 3)
    members: dict[str, bytes] = {}
    for place, number in enumerate(images):
        (tmp_path / "photos" / CLASSES[number % 3]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / CLASSES[number % 3] / f"{number:03d}.png").write_bytes(image(number))
        members |= {f"{place}.png": image(number), f"{place}.cls": str(number % 3).encode()}
    (tmp_path / "all.tar").write_bytes(tar(members))
    folder = pretrain(
        job(tmp_path / "a", {"name": "image-folder", "path": f"{tmp_path}/photos", "held_out": 0})
    )
    shards = pretrain(
        job(tmp_path / "b", {"name": "image-shards", "url": f"{tmp_path}/*.tar", "classes": list(CLASSES)})
    )
    names = [tmp_path / run / "tokens" / "shards" / "00000.safetensors" for run in "ab"]
    assert names[0].read_bytes() == names[1].read_bytes()
    assert equal(folder, shards)
    teacher = Registry.discover().load("teacher", "maskgit")(checkpoint=folder.url)
    assert (CLASSES, 16) == (teacher.conditioning.classes, teacher.tokens.length)


class Killed(BaseException):
    """Not an error: nothing may catch it."""


@pytest.mark.parametrize("phase", ["encoding", "training"])
def test_a_pretraining_that_was_killed_is_continued_bitwise(
    three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    data = {"name": "image-shards", "url": f"{three}/train-*.tar", "classes": 3}
    straight = pretrain(job(tmp_path / "straight", data))
    owner, name = {"encoding": (TokenCache, "write"), "training": (CachedFeed, "read")}[phase]
    original, calls = getattr(owner, name), []

    def dying(*args: Any) -> Any:
        calls.append(phase)
        if len(calls) == 3:
            raise Killed
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dying)
        with pytest.raises(Killed):
            pretrain(job(tmp_path / "parts", data))
    assert (phase == "training") == (tmp_path / "parts" / "tokens" / "manifest.json").exists()
    parts = pretrain(job(tmp_path / "parts", data), resume=True)
    assert equal(straight, parts)


def test_a_second_run_uses_the_tokens_of_the_first(three: Path, tmp_path: Path) -> None:
    data = {"name": "image-shards", "url": f"{three}/train-*.tar", "classes": 3}
    first = pretrain(job(tmp_path / "one", data, tokens=str(tmp_path / "tokens")))
    for path in three.glob("*.tar"):
        path.unlink()
    second = pretrain(job(tmp_path / "two", data, tokens=str(tmp_path / "tokens")))
    assert equal(first, second)
    assert not (tmp_path / "two" / "tokens").exists()
    with pytest.raises(UsageError, match="size was 8, is 16"):
        pretrain(job(tmp_path / "three", data | {"size": 16}, tokens=str(tmp_path / "tokens")))
    assert not (tmp_path / "three").exists()


def test_a_token_cache_is_filled_by_one_run_and_read_by_many(three: Path, tmp_path: Path) -> None:
    tokens = str(tmp_path / "tokens")
    data = {"name": "image-shards", "url": f"{three}/train-*.tar", "classes": 3}
    with owned(tokens), pytest.raises(UsageError, match=r"tokens' is being written to by process"):
        pretrain(job(tmp_path / "one", data, tokens=tokens))
    assert not (tmp_path / "one").exists()
    first = pretrain(job(tmp_path / "one", data, tokens=tokens))
    with owned(tokens):
        assert equal(first, pretrain(job(tmp_path / "two", data, tokens=tokens)))


def test_a_token_cache_is_refused_for_data_in_memory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--tokens is for data that are streamed"):
        pretrain(
            PretrainDraft.resolve(
                {"data": {"name": "digits"}, "tokens": "here", "out": str(tmp_path / "x"), "device": "cpu"}
            )
        )


def test_a_source_that_cannot_be_read_leaves_no_run_behind(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"")
    data = {"name": "image-shards", "url": f"{tmp_path}/a.tar", "classes": 3}
    with pytest.raises(UsageError, match=r"no image can be read; .*a\.tar \(ReadError: empty file\)"):
        pretrain(job(tmp_path / "x", data))
    assert not (tmp_path / "x").exists()
