"""The token cache: what is in it, how it is continued, what it refuses; and training from it."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger
from torch import Tensor

from dimo_core.conditions import Conditioning
from dimo_core.data.feeds import CachedFeed, EpochOrder, TokenFeed
from dimo_core.data.token_cache import EncodedExamples, TokenCache, smallest
from dimo_core.data.token_encoding import encoded, prefetched
from dimo_core.draws import permutation
from dimo_core.errors import CheckpointError, Interrupted, PluginError, UsageError
from dimo_core.files.folder import Folder
from dimo_core.sources import Data, Examples, Picture, PictureStream
from dimo_core.teacher import Teacher
from dimo_core.tokens import TokenSpace

CPU = torch.device("cpu")


class PixelTeacher(Teacher):
    """Each of four pixels is a token."""

    capabilities = frozenset({"encode"})
    conditioning = Conditioning(kind="label", classes=("a", "b", "c"))

    def __init__(self, codes: int = 256, shift: int = 0, spoil: Any = None) -> None:
        self.codes, self.shift, self.spoil = codes, shift, spoil
        self.batches: list[int] = []

    @property
    def tokens(self) -> TokenSpace:
        return TokenSpace(length=4, codes=self.codes, mask_id=self.codes)

    def tokenizer_identity(self) -> dict[str, Any]:
        return {"shift": self.shift}

    def encode_conditions(self, raw: Any) -> Tensor:
        return torch.tensor(list(raw))

    def encode(self, images: Tensor, c: Tensor) -> Tensor:
        self.batches.append(len(images))
        assert images.dtype == torch.float32
        tokens = ((images * 255).round().long().flatten(1) + self.shift) % self.codes
        return tokens if self.spoil is None else self.spoil(tokens)

    def network(self, *, share: bool = False) -> Any:
        raise AssertionError("not used")

    def skeleton(self) -> Any:
        raise AssertionError("not used")

    def recipes(self) -> dict[str, Any]:
        return {}

    def evaluation(self) -> None:
        return None


def picture(number: int) -> Picture:
    image = torch.full((1, 2, 2), number % 256, dtype=torch.uint8)
    image[0, 0, 0] = number // 256
    return Picture(key=f"picture-{number}", label=number % 3, image=image)


def bad(number: int) -> Picture:
    return Picture(key=f"picture-{number}", error="torn")


class Pictures(PictureStream):
    """Shards of pictures in memory; remembers which were read, and may run something in the middle of one."""

    classes = ("a", "b", "c")

    def __init__(self, shards: dict[str, list[Picture]], max_broken: float = 0.01) -> None:
        self.pictures, self.shards, self.max_broken = shards, list(shards), max_broken
        self.opened: list[str] = []
        self.halfway: dict[str, Any] = {}

    def read(self, shard: str) -> Iterator[Picture]:
        self.opened.append(shard)
        for place, found in enumerate(self.pictures[shard]):
            if place == 2 and shard in self.halfway:
                self.halfway[shard]()
            yield found


@attrs.frozen(kw_only=True)
class Album(Data):
    """A data plugin around a stream.

    Attributes:
        path: Its only option.
    """

    path: str = "album"

    def splits(self) -> tuple[str, ...]:
        return ("train", "other")

    def load(self, split: str) -> Examples:
        raise AssertionError("streamed data are not loaded")

    def open(self, split: str) -> PictureStream:
        return STREAMS[self.path]


STREAMS: dict[str, Pictures] = {}


@pytest.fixture(autouse=True)
def album() -> Iterator[Pictures]:
    """Three shards of five pictures."""
    STREAMS["album"] = Pictures({f"s{s}": [picture(5 * s + i) for i in range(5)] for s in range(3)})
    yield STREAMS["album"]
    STREAMS.clear()


def fill(
    folder: Folder, teacher: Teacher | None = None, data: Data | None = None, split: str = "train"
) -> EncodedExamples:
    teacher = teacher or PixelTeacher()
    cache = TokenCache(folder, data or Album(), split)
    cache.begin(teacher, cache.examples())
    return encoded(cache, teacher, CPU)


def contents(folder: Folder) -> dict[str, bytes]:
    names = [*folder.names(), *(f"shards/{name}" for name in folder.sub("shards").names())]
    return {name: folder.read(*name.split("/")) for name in names if name != "shards"}


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    place = Folder(str(tmp_path / "tokens") if request.param == "local" else "memory://token-cache/tokens")
    yield place
    Folder("memory://token-cache").remove()


@pytest.fixture
def log() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message)), format="{message}", level="INFO")
    yield lines
    logger.remove(sink)


def test_tokens_and_labels_are_those_of_the_stream_in_its_order(folder: Folder) -> None:
    examples = fill(folder)
    assert [[0, i, i, i] for i in range(15)] == examples.tokens.tolist()
    assert [i % 3 for i in range(15)] == examples.labels.tolist()


@pytest.mark.parametrize(
    ("codes", "dtype"),
    [
        (2, torch.uint8),
        (256, torch.uint8),
        (257, torch.int16),
        (2**15, torch.int16),
        (2**15 + 1, torch.int32),
    ],
)
def test_tokens_are_kept_in_the_smallest_integers(codes: int, dtype: torch.dtype) -> None:
    assert dtype == smallest(codes)
    assert codes - 1 == int(torch.tensor(codes - 1).to(dtype))


def test_a_finished_cache_is_used_without_looking_at_the_data(folder: Folder) -> None:
    first = fill(folder)
    STREAMS.clear()
    again = fill(folder)
    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(first.labels, again.labels)


@pytest.mark.parametrize("halfway", ["error", "signal"])
def test_encoding_goes_on_where_it_was_stopped_and_ends_the_same(
    folder: Folder, album: Pictures, halfway: str
) -> None:
    fill(folder)
    straight = contents(folder)
    folder.remove()
    album.opened.clear()

    def stop() -> None:
        if album.opened.count("s1") > 1:  # the first time is for the examples
            if halfway == "error":
                raise RuntimeError("the power went")
            os.kill(os.getpid(), signal.SIGTERM)

    album.halfway["s1"] = stop
    with pytest.raises(
        (RuntimeError, Interrupted), match=r"power|stopped by SIGTERM.*1 of 3 shards are kept"
    ):
        fill(folder)
    assert not folder.exists("manifest.json")
    album.opened.clear()
    album.halfway.clear()
    fill(folder)
    assert ["s1", "s2"] == album.opened
    assert straight == contents(folder)


def test_a_shard_whose_facts_were_not_written_is_encoded_again(folder: Folder, album: Pictures) -> None:
    fill(folder)
    straight = contents(folder)
    folder.remove("manifest.json")
    folder.remove("shards", "00001.json")
    album.opened.clear()
    fill(folder)
    assert (["s1"], straight) == (album.opened, contents(folder))


@pytest.mark.parametrize("harm", ["digit", "line", "other"])
def test_a_shard_whose_facts_are_damaged_is_encoded_again(
    folder: Folder, album: Pictures, log: list[str], harm: str
) -> None:
    fill(folder)
    straight, shards = contents(folder), folder.sub("shards")
    folder.remove("manifest.json")
    text = shards.read("00001.json").decode()
    lines = [line for line in text.splitlines() if '"pictures"' not in line]
    other = shards.read("00002.json").decode()
    changed = {
        "digit": text.replace('"pictures": ', '"pictures": 1'),
        "line": "\n".join(lines),
        "other": other,
    }
    shards.write("00001.json", changed[harm].encode())
    album.opened.clear()
    fill(folder)
    assert (["s1"], straight) == (album.opened, contents(folder))
    assert any("00001.json" in line and "encoded again" in line for line in log)


def test_other_data_another_split_and_another_tokenizer_are_refused(folder: Folder) -> None:
    fill(folder)
    with pytest.raises(UsageError, match=r"another data: path was 'album', is 'elsewhere'.*another --tokens"):
        fill(folder, data=Album(path="elsewhere"))
    with pytest.raises(UsageError, match=r"another split: was 'train', is 'other'"):
        fill(folder, split="other")
    with pytest.raises(UsageError, match=r"another tokenizer: shift was 0, is 1\..*--model.tokenizer"):
        fill(folder, PixelTeacher(shift=1))
    with pytest.raises(UsageError, match=r"another tokenizer: codes was 256, is 300"):
        fill(folder, PixelTeacher(codes=300))


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ({"s0": [], "x": [], "s2": []}, "number 1 of 3 was 's1', is 'x' of 3"),
        ({"s0": [], "s1": []}, "there were 3, are 2"),
    ],
)
def test_an_unfinished_cache_of_other_shards_is_refused(
    folder: Folder, now: dict[str, list[Picture]], message: str
) -> None:
    fill(folder)
    folder.remove("manifest.json")
    STREAMS["album"] = Pictures(now)
    with pytest.raises(UsageError, match=f"another shards: {message}"):
        fill(folder)


def test_a_folder_of_something_else_is_left_alone(folder: Folder) -> None:
    folder.write("thesis.txt", b"mine")
    with pytest.raises(UsageError, match="holds no tokens"):
        fill(folder)
    assert {"thesis.txt": b"mine"} == contents(folder)


def test_a_file_of_another_format_is_refused(folder: Folder) -> None:
    folder.write_json("plan.json", {"format": "dimo-tokens/9"})
    with pytest.raises(UsageError, match="dimo-tokens/1"):
        fill(folder)


@pytest.mark.parametrize("name", ["shards/00001.safetensors", "examples.safetensors", "manifest.json"])
def test_a_damaged_file_is_named(folder: Folder, name: str) -> None:
    fill(folder)
    data = folder.read(*name.split("/"))
    folder.write(name, data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=f"{name} is damaged"):
        fill(folder)


def test_broken_pictures_are_counted_and_named(folder: Folder, album: Pictures, log: list[str]) -> None:
    album.pictures["s1"] = [bad(100), *album.pictures["s1"], bad(101)]
    assert 15 == len(fill(folder))
    lines = [json.loads(line) for line in folder.read("broken.jsonl").decode().splitlines()]
    assert [{"key": f"picture-{i}", "error": "torn", "shard": "s1"} for i in (100, 101)] == lines
    text = "".join(log)
    assert "picture-100 (torn)" in text
    assert f"broken images and shards: 2, all in {folder.path('broken.jsonl')}" in text
    assert 2 == json.loads(folder.read("manifest.json"))["broken"]


def test_the_log_names_twenty_broken_pictures(folder: Folder, album: Pictures, log: list[str]) -> None:
    album.max_broken = 0.9
    album.pictures["s1"] += [bad(100 + i) for i in range(30)]
    fill(folder)
    assert 20 == "".join(log).count("torn")
    assert 30 == folder.read("broken.jsonl").count(b"torn")


@pytest.mark.parametrize(
    ("broken", "limit", "survived"), [(10, 0.01, True), (11, 0.01, False), (11, 0.5, True), (1, 0.0, False)]
)
def test_too_many_broken_pictures_are_an_error(
    folder: Folder, album: Pictures, broken: int, limit: float, survived: bool
) -> None:
    album.max_broken = limit
    album.pictures["s2"] += [bad(100 + i) for i in range(broken)]
    if survived:
        assert 15 == len(fill(folder))
    else:
        with pytest.raises(UsageError, match=r"cannot be read.*picture-100 \(torn\).*max_broken"):
            fill(folder)


def test_what_is_encoded_is_kept_when_more_broken_pictures_are_allowed(
    folder: Folder, album: Pictures
) -> None:
    album.pictures["s1"] += [bad(100 + i) for i in range(30)]
    with pytest.raises(UsageError, match="cannot be read"):
        fill(folder)
    album.max_broken = 0.7
    album.opened.clear()
    assert 15 == len(fill(folder))
    assert ["s2"] == album.opened


def lost(shard: str) -> Picture:
    return Picture(key=shard, error="cut off", lost=True)


def test_a_lost_shard_is_survived_and_tried_again_until_the_cache_is_finished(
    folder: Folder, album: Pictures, log: list[str]
) -> None:
    album.pictures["s0"] = [*album.pictures["s0"][:2], lost("s0")]
    album.halfway["s2"] = lambda: 1 / 0 if album.opened.count("s2") > 1 else None
    with pytest.raises(ZeroDivisionError):
        fill(folder)
    album.halfway.clear()
    album.opened.clear()
    assert 12 == len(fill(folder))
    assert ["s0", "s2"] == album.opened
    assert ["s0"] == json.loads(folder.read("manifest.json"))["lost_shards"]
    assert "s0 (cut off)" in "".join(log)


def test_too_many_lost_shards_are_an_error(folder: Folder, album: Pictures) -> None:
    album.pictures["s0"] = [lost("s0")]
    album.pictures["s1"] = [*album.pictures["s1"][:2], lost("s1")]
    with pytest.raises(UsageError, match=r"2 of 2 shards not to their end.*s0 \(cut off\); s1 \(cut off\)"):
        fill(folder)


def test_pictures_that_can_be_read_no_more_are_an_error(folder: Folder, album: Pictures) -> None:
    cache = TokenCache(folder, Album(), "train")
    cache.begin(PixelTeacher(), cache.examples())
    album.pictures = {name: [bad(1)] for name in album.shards}
    with pytest.raises(UsageError, match="none of the 3 shards holds an image"):
        encoded(cache, PixelTeacher(), CPU)
    assert not cache.finished


def test_a_stream_without_a_whole_picture_is_an_error_at_the_start(folder: Folder, album: Pictures) -> None:
    album.pictures = {name: [bad(1)] for name in album.shards}
    with pytest.raises(UsageError, match=r"no image can be read.*3 of 3 shards: picture-1 \(torn\)"):
        TokenCache(folder, Album(), "train").examples()


def test_pictures_of_another_shape_and_wrong_tokens_are_bugs_of_a_plugin(
    folder: Folder, album: Pictures
) -> None:
    cache = TokenCache(folder, Album(), "train")
    cache.begin(PixelTeacher(), cache.examples())
    wrong = torch.zeros(1, 3, 3, dtype=torch.uint8)
    album.pictures["s2"].append(attrs.evolve(picture(1), image=wrong))
    with pytest.raises(PluginError, match=r"picture-1 is of shape \[1, 3, 3\]"):
        encoded(cache, PixelTeacher(), CPU)
    album.pictures["s2"].pop()
    for spoil in (lambda tokens: tokens + 1000, lambda tokens: tokens[:, :2]):
        folder.remove()
        with pytest.raises(PluginError, match=r"expected \[5, 4\] of 0 .. 255"):
            fill(folder, PixelTeacher(spoil=spoil))


def test_the_examples_are_spread_over_the_stream_and_limited(album: Pictures) -> None:
    album.shards = [f"s{i}" for i in range(40)]
    album.pictures = {f"s{i}": [bad(0), *(picture(i * 6 + k) for k in range(5))] for i in range(40)}
    examples = album.sample(count=8, shards=4)
    assert [0, 1, 60, 61, 120, 121, 180, 181] == examples.images[:, 0, 1, 1].tolist()
    assert [0, 10, 20, 30] == [int(name[1:]) for name in album.opened]
    assert ("a", "b", "c") == examples.classes
    assert 4 == len(album.sample(count=1000, size=16, shards=4))


def test_small_collections_are_examples_as_a_whole(album: Pictures) -> None:
    assert 15 == len(album.sample())


def test_things_are_made_ahead_of_time_but_not_too_many() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for i in range(10):
            made.append(i)
            yield i

    items = prefetched(numbers(), 3)
    assert 0 == next(items)
    items.close()
    assert len(made) <= 4
    assert [*range(10)] == [*prefetched(numbers(), 3)]


def test_an_error_in_the_background_arrives_in_its_place() -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise ValueError("background")

    items = prefetched(numbers(), 3)
    assert 1 == next(items)
    with pytest.raises(ValueError, match="background"):
        next(items)


@given(count=st.integers(1, 9), cuts=st.lists(st.integers(1, 7), max_size=6), seed=st.integers(0, 3))
def test_the_order_is_a_permutation_each_epoch_however_it_is_read(
    count: int, cuts: list[int], seed: int
) -> None:
    total = 3 * count
    straight = EpochOrder(seed, count).rows(0, total).tolist()
    assert [i for epoch in range(3) for i in permutation(seed, epoch, count)] == straight
    order, position, parts = EpochOrder(seed, count), 0, []
    for cut in [*cuts, total]:
        cut = min(cut, total - position)
        parts += order.rows(position, cut).tolist() if cut else []
        position += cut
    assert straight == parts


def test_training_from_the_cache_is_training_from_memory(folder: Folder, album: Pictures) -> None:
    teacher = PixelTeacher()
    cached = CachedFeed(teacher=teacher, examples=fill(folder, teacher), seed=3, device=CPU)
    whole = TokenFeed(teacher, Album(), album.sample(), seed=3, device=CPU)
    for start in (0, 12, 29, 7):
        expected, actual = whole.read(start, 6), cached.read(start, 6)
        assert torch.equal(expected.tokens, actual.tokens)
        assert torch.equal(expected.conditions, actual.conditions)
        assert torch.int64 == actual.tokens.dtype
