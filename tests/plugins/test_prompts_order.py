"""The order of prompts: a pure function of seed and position, for any readers, with parts read ahead."""

import random
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dimo_core.conditions import Conditioning
from dimo_core.errors import SourceError
from dimo_prompts.prompts import PromptList, spread
from dimo_prompts.stream import PromptStream, Shelf

TEXT = Conditioning(kind="text")
COUNTS = st.lists(st.integers(1, 7), min_size=1, max_size=6)


class Parts:
    """Parts of named prompts; remembers which were loaded."""

    def __init__(self, counts: Sequence[int]) -> None:
        self.counts, self.loaded = counts, []

    def __call__(self, part: int) -> list[str]:
        self.loaded.append(part)
        return [f"{part}/{i}" for i in range(self.counts[part])]

    def stream(self, seed: int = 0, shuffle: bool = True, ahead: int = 0) -> PromptStream:
        return PromptStream(self.counts, self, seed=seed, shuffle=shuffle, ahead=ahead)

    @property
    def all(self) -> list[str]:
        return [prompt for part in range(len(self.counts)) for prompt in Parts(self.counts)(part)]


@given(counts=COUNTS, seed=st.integers(0, 2**40), epoch=st.integers(0, 10**6))
def test_every_epoch_holds_every_prompt_once(counts: list[int], seed: int, epoch: int) -> None:
    parts = Parts(counts)
    stream = parts.stream(seed)
    assert sorted(parts.all) == sorted(stream.read(epoch * len(stream), len(stream)))


@given(counts=COUNTS, start=st.integers(0, 200), first=st.integers(0, 30), second=st.integers(0, 30))
def test_any_slicing_reads_the_same_prompts(counts: list[int], start: int, first: int, second: int) -> None:
    straight = Parts(counts).stream().read(start, first + second)
    assert first + second == len(straight)
    stream = Parts(counts).stream(ahead=2)
    tail = stream.read(start + first, second)
    assert straight == stream.read(start, first) + tail


@given(counts=COUNTS, position=st.integers(0, 100))
def test_a_position_is_found_by_reading_one_part(counts: list[int], position: int) -> None:
    parts = Parts(counts)
    parts.stream().read(position, 1)
    assert 1 == len(parts.loaded)


@given(counts=COUNTS)
def test_each_part_is_read_to_its_end_before_the_next_begins(counts: list[int]) -> None:
    parts = [prompt.split("/")[0] for prompt in Parts(counts).stream().read(0, sum(counts))]
    changes = sum(one != other for one, other in pairwise(parts))
    assert len(counts) - 1 == changes


def test_seeds_and_epochs_give_different_orders() -> None:
    parts = Parts([50, 50, 50])
    stream = parts.stream(seed=0)
    epoch = stream.read(0, 150)
    assert epoch != stream.read(150, 150)
    assert epoch != parts.stream(seed=1).read(0, 150)
    assert epoch == parts.stream(seed=0).read(0, 150)
    orders = {tuple(dict.fromkeys(p.split("/")[0] for p in stream.read(150 * e, 150))) for e in range(20)}
    assert 6 == len(orders)


def test_all_places_in_an_epoch_are_equally_likely() -> None:
    stream = PromptList(prompts=tuple("abcd")).open(TEXT, seed=0)
    firsts = Counter(stream.read(4 * epoch, 1)[0] for epoch in range(4000))
    for letter in "abcd":
        assert firsts[letter] == pytest.approx(1000, abs=5 * (1000 * 0.75) ** 0.5)


def test_without_shuffling_the_order_is_that_of_the_files() -> None:
    parts = Parts([2, 3, 1])
    assert parts.all * 2 == parts.stream(shuffle=False).read(0, 12)


@pytest.mark.parametrize("threads", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_ranks_together_read_what_one_reader_reads(ranks: int, threads: int) -> None:
    """Global batches of 30 in slices, with fewer parts than ranks; ranks run at their own pace."""
    counts, batch, steps = [17, 11, 9], 30, 12
    total, share = sum(counts), batch // ranks
    straight = Parts(counts).stream(seed=5).read(0, batch * steps)

    def rank(number: int) -> list[tuple[int, str]]:
        stream = Parts(counts).stream(seed=5, ahead=threads)
        starts = [step * batch + number * share for step in range(steps)]
        return [(start + i, p) for start in starts for i, p in enumerate(stream.read(start, share))]

    with ThreadPoolExecutor(ranks) as pool:
        found = [entry for entries in pool.map(rank, range(ranks)) for entry in entries]
    assert [*enumerate(straight)] == sorted(found)
    for epoch in range(batch * steps // total):
        assert {1} == set(Counter(straight[epoch * total : (epoch + 1) * total]).values())


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), threads=st.integers(0, 4), readers=st.integers(1, 4))
def test_one_stream_may_be_read_by_several_threads_in_any_order(
    seed: int, threads: int, readers: int
) -> None:
    counts = [5, 1, 8, 3]
    slices = [(start, 1 + start % 4) for start in range(0, 90, 3)]
    random.Random(seed).shuffle(slices)
    reference, stream = Parts(counts).stream(), Parts(counts).stream(ahead=threads)
    with ThreadPoolExecutor(readers) as pool:
        found = [*pool.map(lambda one: stream.read(*one), slices)]
    assert [reference.read(*one) for one in slices] == found


def test_reading_on_after_a_restart_gives_what_reading_straight_gives() -> None:
    parts = Parts([10, 10, 10])
    straight = parts.stream().read(0, 75)
    assert straight[:34] == parts.stream().read(0, 34)
    again = Parts([10, 10, 10])
    assert straight[34:40] == again.stream().read(34, 6)
    assert 1 == len(again.loaded)
    assert straight[40:] == again.stream().read(40, 35)


def test_a_part_is_loaded_once_an_epoch_and_at_most_a_few_are_held() -> None:
    parts = Parts([10] * 30)
    stream = parts.stream(ahead=3)
    for start in range(0, 300, 4):
        stream.read(start, 4)
    assert [*range(30)] == sorted(set(parts.loaded))
    assert len(parts.loaded) <= 30 + 3
    assert len(stream._shelf._held) <= 5


def test_the_next_parts_are_read_before_they_are_needed() -> None:
    """Every part but the first is loaded in another thread than the reader's."""
    loaders: dict[int, threading.Thread] = {}

    def load(part: int) -> list[str]:
        loaders.setdefault(part, threading.current_thread())
        return ["x"]

    stream = PromptStream([1] * 5, load, seed=0, shuffle=False, ahead=2)
    for position in range(4):
        stream.read(position, 1)
        for part in (position + 1, position + 2):  # asked for before ``read`` returned
            stream._shelf._held[part % 5].result(timeout=30)
    assert threading.current_thread() is loaders[0]
    assert all(loaders[part] is not threading.current_thread() for part in range(1, 5))


def test_a_part_that_could_not_be_read_ahead_is_read_again_when_it_is_needed() -> None:
    failures = [SourceError("a.tar is away.")]

    def load(part: int) -> list[str]:
        if part == 1 and failures:
            raise failures.pop()
        return [str(part)]

    shelf = Shelf(load, room=3)
    assert ["0"] == shelf.get(0, [1])
    assert ["1"] == shelf.get(1)


def test_a_part_that_stays_away_is_an_error_each_time_it_is_needed() -> None:
    asked = []

    def load(part: int) -> list[str]:
        asked.append(part)
        raise SourceError("a.tar is away.")

    shelf = Shelf(load, room=3)
    for _ in range(2):
        with pytest.raises(SourceError, match="tar is away"):
            shelf.get(0)
    assert [0, 0] == asked


def test_readers_that_want_one_part_load_it_once() -> None:
    go, asked = threading.Event(), []

    def load(part: int) -> list[str]:
        asked.append(part)
        assert go.wait(30)
        return [str(part)]

    shelf = Shelf(load, room=3)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(shelf.get, 0) for _ in range(4)]
        go.set()
        assert [["0"]] * 4 == [one.result() for one in waiting]
    assert [0] == asked


@pytest.mark.parametrize(
    ("count", "expected"), [(1, "a"), (2, "ac"), (3, "abc"), (4, "abcd"), (5, "abcda"), (9, "abcdabcda")]
)
def test_spread_takes_evenly_or_in_turn(count: int, expected: str) -> None:
    assert [*expected] == spread("abcd", count)
