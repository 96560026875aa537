"""What a token space refuses, and how many columns its logits have."""

from typing import Any

import pytest

from dimo_core.tokens import TokenSpace


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"length": 0}, "length"),
        ({"codes": 1}, "codes"),
        ({"grid": (2, 3)}, r"grid \(2, 3\) has 6 sites, but length is 4"),
        ({"mask_id": 6, "scores_mask": True}, "with scores_mask the mask id must be V = 5, got 6"),
    ],
)
def test_an_impossible_space_is_refused(options: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        TokenSpace(**{"length": 4, "codes": 5, "mask_id": 5, **options})


@pytest.mark.parametrize("mask_id", [5, 9, -1])
def test_the_mask_id_may_be_any_that_is_no_code(mask_id: int) -> None:
    assert 5 == TokenSpace(length=4, codes=5, mask_id=mask_id).columns


def test_a_scored_mask_adds_a_column() -> None:
    assert 6 == TokenSpace(length=4, codes=5, mask_id=5, scores_mask=True).columns


def test_a_grid_has_as_many_sites_as_the_space() -> None:
    assert (2, 2) == TokenSpace(length=4, codes=5, mask_id=5, grid=(2, 2)).grid
