"""Halton order: golden order and counts, and an independent computation."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import qmc

from dimo_core.draws import Draws
from dimo_core.method.orders import halton_order, halton_places, halton_sites
from dimo_core.tokens import TokenSpace
from dimo_samplers.halton import HaltonSampler
from dimo_samplers.ordered import ordered_counts


def radical_inverse(n: int, base: int) -> Fraction:
    value, place = Fraction(0), Fraction(1)
    while n:
        place /= base
        value += place * (n % base)
        n //= base
    return value


def test_the_order_of_16_by_16_begins_as_published() -> None:
    begin = [divmod(site, 16) for site in halton_order(16, 16)[:6].tolist()]
    assert [(8, 5), (4, 10), (12, 1), (2, 7), (10, 12), (6, 3)] == begin


@pytest.mark.parametrize(("steps", "counts"), [(4, [41, 44, 53, 118]), (8, [20, 21, 21, 23, 25, 28, 35, 83])])
def test_counts_of_256_tokens_equal_the_published_ones(steps: int, counts: list[int]) -> None:
    assert counts == ordered_counts(256, steps, "arccos", "halton")


@pytest.mark.parametrize("size", [16, 64])
def test_the_order_equals_that_of_scipys_sequence(size: int) -> None:
    points = qmc.Halton(2, scramble=False).random(200_000)[1:]
    cells = torch.from_numpy(points * size).long()
    assert (
        list(dict.fromkeys((cells[:, 0] * size + cells[:, 1]).tolist())) == halton_order(size, size).tolist()
    )


@given(rows=st.integers(1, 13), columns=st.integers(1, 13))
@settings(deadline=None)
def test_every_grid_is_met_in_the_order_of_exact_fractions(rows: int, columns: int) -> None:
    order = halton_order(rows, columns).tolist()
    assert list(range(rows * columns)) == sorted(order)
    seen: dict[int, None] = {}
    n = 0
    while len(seen) < rows * columns:
        n += 1
        seen[int(rows * radical_inverse(n, 2)) * columns + int(columns * radical_inverse(n, 3))] = None
    assert list(seen) == order


def test_from_point_0_every_further_site_halves_the_distance() -> None:
    order = halton_order(64, 1, 0)
    assert [0, 32, 16, 48] == order[:4].tolist()
    for count in (4, 16, 32):
        assert {64 // count} == set(order[:count].sort().values.diff().tolist())
    assert order[1:].tolist() == halton_order(64, 1)[:-1].tolist()


@given(length=st.integers(1, 700), steps=st.integers(1, 800))
@settings(deadline=None)
def test_counts_are_positive_and_add_up(length: int, steps: int) -> None:
    for schedule in ("root", "linear", "square", "cosine", "arccos"):
        counts = ordered_counts(length, steps, schedule, "halton")
        assert (length, True) == (sum(counts), min(counts) >= 1)
        assert len(counts) <= min(steps, length)


def test_tokens_without_a_plane_are_met_in_van_der_corput_order() -> None:
    space = TokenSpace(length=8, codes=3, mask_id=3, modality="text")
    order = HaltonSampler().order(space, Draws(seed=0, total=2))
    assert [[4, 2, 6, 1, 5, 3, 7, 0]] * 2 == order.tolist()


def test_roll_starts_each_sample_at_its_own_place() -> None:
    space = TokenSpace(length=35, codes=3, mask_id=3, grid=(5, 7))
    draws = Draws(seed=0, total=50)
    orders, fixed = HaltonSampler(roll=True).order(space, draws), halton_order(5, 7)
    starts = [int((fixed == order[0]).nonzero()) for order in orders]
    assert len(set(starts)) > 20
    for start, order in zip(starts, orders, strict=True):
        assert torch.equal(fixed.roll(-start), order)
    assert torch.equal(orders[7:9], HaltonSampler(roll=True).order(space, draws.slice(7, 2)))


def test_codes_of_a_place_are_decided_apart() -> None:
    space = TokenSpace(length=12, codes=3, mask_id=3, group=3, grid=(2, 2))
    cells = halton_order(2, 2).tolist()
    assert [3 * cell + code for code in range(3) for cell in cells] == halton_sites(space).tolist()
    order = HaltonSampler(roll=True).order(space, Draws(seed=0, total=5))
    assert [list(range(12))] * 5 == order.sort(1).values.tolist()


def test_a_shift_goes_round_the_plane() -> None:
    """Each sample's order is the sequence's, moved by whole rows and columns."""
    space = TokenSpace(length=24, codes=3, mask_id=3, grid=(4, 3), group=2)
    places = halton_places(space, Draws(seed=0, total=200)).view(-1, 4, 3, 2)
    fixed = halton_sites(space, 0).argsort().view(4, 3, 2)
    shifts = [
        [(r, c) for r in range(4) for c in range(3) if torch.equal(own, fixed.roll((-r, -c), (0, 1)))]
        for own in places
    ]
    assert [1] * 200 == [len(found) for found in shifts]
    assert 12 == len({found[0] for found in shifts})
