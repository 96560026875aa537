"""Class labels: a pure function of seed and position."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dimo_core.conditions import Conditioning
from dimo_core.errors import UsageError
from dimo_prompts.labels import BLOCK, Labels

PARITY = Conditioning(kind="label", classes=("even", "odd"))
TEN = Conditioning(kind="label", classes=tuple("abcdefghij"))


@given(start=st.integers(0, 5 * BLOCK), first=st.integers(0, 2 * BLOCK), second=st.integers(0, 2 * BLOCK))
def test_any_slicing_of_the_stream_reads_the_same_labels(start: int, first: int, second: int) -> None:
    stream = Labels().open(TEN, seed=3)
    together = stream.read(start, first + second)
    assert first + second == len(together)
    assert together == stream.read(start, first) + stream.read(start + first, second)


def test_seeds_and_positions_give_different_labels() -> None:
    stream = Labels().open(TEN, seed=0)
    assert stream.read(0, 100) != stream.read(BLOCK, 100)
    assert stream.read(0, 100) != Labels().open(TEN, seed=1).read(0, 100)
    assert stream.read(0, 100) == Labels().open(TEN, seed=0).read(0, 100)


def test_every_class_is_equally_likely() -> None:
    labels = Labels().open(TEN, seed=0).read(7, 20_000)
    for label in range(10):
        assert labels.count(label) == pytest.approx(2000, abs=5 * (2000 * 0.9) ** 0.5)


@pytest.mark.parametrize(
    ("classes", "chosen"),
    [(None, (0, 1)), (("odd",), (1,)), ((1, 0), (1, 0)), (("1", "odd"), (1,)), (["even"], (0,))],
)
def test_classes_are_named_or_numbered(
    classes: tuple[int | str, ...] | None, chosen: tuple[int, ...]
) -> None:
    source = Labels(classes=classes)
    assert chosen == source.chosen(PARITY)
    assert set(chosen) == set(source.open(PARITY, seed=0).read(0, 200))


def test_a_name_wins_over_an_index() -> None:
    reversed_names = Conditioning(kind="label", classes=("1", "0"))
    assert (1,) == Labels(classes=("0",)).chosen(reversed_names)
    assert (1,) == Labels(classes=(0,)).chosen(reversed_names)


def test_where_names_are_numbers_no_class_is_called_by_its_index() -> None:
    folders = Conditioning(kind="label", classes=("1", "10", "2"))
    assert (2, 1) == Labels(classes=(2, "10")).chosen(folders)
    assert [2, 0] == Labels().parse(folders, ["2", "1"])
    with pytest.raises(UsageError, match=r"unknown class '0'. Known: 1, 10, 2; .* no index will do"):
        Labels(classes=(0,)).chosen(folders)


def test_balanced_conditions_go_round_the_classes() -> None:
    assert [0, 1, 0, 1, 0] == Labels().balanced(PARITY, 5)
    assert [9, 2, 9] == Labels(classes=(9, "c")).balanced(TEN, 3)


@pytest.mark.parametrize("entry", [2, -1, "prime", "2"])
def test_an_unknown_class_is_answered_with_the_known_ones(entry: int | str) -> None:
    with pytest.raises(
        UsageError, match=r"conditions.classes: unknown class .*Known: even, odd; or an index"
    ):
        Labels(classes=(entry,)).open(PARITY, seed=0)


def test_no_class_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one class"):
        Labels(classes=()).balanced(PARITY, 1)


@pytest.mark.parametrize("conditioning", [Conditioning(kind="text"), Conditioning(kind="label")])
def test_a_teacher_without_classes_is_refused(conditioning: Conditioning) -> None:
    with pytest.raises(UsageError, match="labels"):
        Labels().open(conditioning, seed=0)
