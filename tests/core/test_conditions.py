"""Condition batches of any nesting behave as one tensor does."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dimo_core import conditions


def batch(size: int, offset: int = 0) -> dict[str, Any]:
    x = torch.arange(size) + offset
    return {"label": x, "text": [x[:, None].float().expand(size, 3), (x[:, None, None].expand(size, 2, 2),)]}


def leaves(c: Any) -> list[Tensor]:
    return [c["label"], c["text"][0], c["text"][1][0]]


def rows(c: Any) -> list[list[float]]:
    """What each leaf says about its rows; alike for all leaves."""
    return [leaf.flatten(1)[:, 0].tolist() if leaf.ndim > 1 else leaf.tolist() for leaf in leaves(c)]


def test_index_takes_rows_by_slice_and_by_number() -> None:
    assert [[1, 2]] * 3 == rows(conditions.index(batch(4), slice(1, 3)))
    assert [[3, 0, 3]] * 3 == rows(conditions.index(batch(4), torch.tensor([3, 0, 3])))


def test_cat_joins_in_order() -> None:
    assert [[0, 1, 9, 10, 11, 5]] * 3 == rows(conditions.cat([batch(2), batch(3, 9), batch(1, 5)]))


def test_where_takes_the_null_of_dropped_samples() -> None:
    drop = torch.tensor([True, False, True])
    chosen = conditions.where(drop, batch(3, 100), batch(3))
    assert [[100, 1, 102]] * 3 == rows(chosen)
    assert [leaf.dtype for leaf in leaves(batch(3))] == [leaf.dtype for leaf in leaves(chosen)]


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_slices_of_a_join_are_its_parts(sizes: list[int]) -> None:
    parts = [batch(size, 10 * i) for i, size in enumerate(sizes)]
    whole, start = conditions.cat(parts), 0
    assert sum(sizes) == conditions.batch_size(whole)
    for part, size in zip(parts, sizes, strict=True):
        assert rows(part) == rows(conditions.index(whole, slice(start, start + size)))
        start += size


def test_to_moves_every_leaf_and_keeps_the_structure() -> None:
    moved = conditions.to(batch(2), "meta")
    assert all(leaf.is_meta for leaf in leaves(moved))
    assert isinstance(moved["text"], list)
    assert isinstance(moved["text"][1], tuple)


@pytest.mark.parametrize("c", [torch.zeros(3), [torch.zeros(3, 2)], ({"a": torch.zeros(3)},), batch(3)])
def test_the_batch_size_is_the_leading_axis(c: Any) -> None:
    assert 3 == conditions.batch_size(c)


def test_a_leaf_that_is_no_tensor_is_refused() -> None:
    with pytest.raises(TypeError, match="holds tensors in dicts, lists and tuples, not str"):
        conditions.index({"prompt": "a cat"}, slice(0, 1))


def test_trees_of_different_structure_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        conditions.cat([[torch.zeros(1)], [torch.zeros(1), torch.zeros(1)]])
