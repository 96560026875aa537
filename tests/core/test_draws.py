"""Keyed random numbers: repeatable, independent, and the same from any slice."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dimo_core import draws as module
from dimo_core.draws import (
    BLOCK_NUMBERS,
    BLOCK_ROWS,
    Draws,
    RecordedDraws,
    block_rows,
    categorical,
    permutation,
    stream_seed,
)

DRAWS = Draws(seed=1, step=2, phase="p", total=12)
KINDS = {
    "uniform": lambda d: d.uniform("s", 3),
    "normal": lambda d: d.normal("s", 3),
    "integers": lambda d: d.integers("s", 1000, 3),
    "gumbel": lambda d: d.gumbel("s", 3),
    "subset": lambda d: d.subset("s", 20, torch.arange(12)[d.start : d.start + d.count]),
}


@pytest.mark.parametrize("kind", KINDS)
@given(start=st.integers(0, 11), count=st.integers(1, 12))
def test_a_slice_draws_its_rows_of_the_whole(kind: str, start: int, count: int) -> None:
    count = min(count, 12 - start)
    whole, part = KINDS[kind](DRAWS), KINDS[kind](DRAWS.slice(start, count))
    assert torch.equal(whole[start : start + count], part)
    assert torch.equal(whole, KINDS[kind](DRAWS.slice(start, count).whole()))


MANY = Draws(seed=1, phase="p", total=200)
WIDE = BLOCK_NUMBERS // 5
"""Numbers in a row of which a block holds five."""


@pytest.mark.parametrize(
    ("kind", "width", "rows"),
    [
        *((kind, width, 200) for kind in KINDS for width in (3, 400)),
        ("uniform", WIDE, 12),
        ("normal", WIDE, 12),
        ("integers", BLOCK_NUMBERS + 1, 3),
    ],
)
@given(cuts=st.lists(st.integers(0, 200), max_size=6), data=st.data())
@settings(max_examples=20)
def test_any_split_draws_the_same_numbers(
    kind: str, width: int, rows: int, cuts: list[int], data: st.DataObject
) -> None:
    """Blocks of 64 rows, of 5 and of 1."""
    first = data.draw(st.integers(0, 200 - rows))
    sizes = torch.arange(200) * width // 200

    def drawn(start: int, end: int) -> Tensor:
        part = MANY.slice(start, end - start)
        if kind == "subset":
            return part.subset("s", width, sizes[start:end])
        return getattr(part, kind)("s", *([1000] if kind == "integers" else []), width)

    bounds = sorted({first, first + rows, *(first + cut % rows for cut in cuts)})
    parts = [drawn(a, b) for a, b in itertools.pairwise(bounds)]
    assert torch.equal(torch.cat(parts), drawn(first, first + rows))


def test_a_row_does_not_depend_on_the_size_of_the_global_batch() -> None:
    small, large = (Draws(seed=1, total=total, start=9, count=3) for total in (12, 10_000))
    assert torch.equal(small.normal("s", 7), large.normal("s", 7))


def test_neighbouring_blocks_draw_different_numbers() -> None:
    u = Draws(seed=1, total=3 * BLOCK_ROWS).uniform("s", 5)
    assert 15 * BLOCK_ROWS - 5 < len(u.unique())


@pytest.mark.parametrize(
    ("shape", "rows"),
    [((), 64), ((0,), 64), ((4096,), 64), ((4097,), 63), ((64, 1024), 4), ((2**18,), 1), ((2**18 + 1,), 1)],
)
def test_a_block_holds_a_mebibyte_and_64_rows_at_most(shape: tuple[int, ...], rows: int) -> None:
    assert block_rows(*shape) == rows


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("shape", "rows"), [((64, 1024), 4), ((2**19,), 2), ((), 64)])
def test_a_draw_costs_its_rows_and_not_the_global_batch(
    device: str, shape: tuple[int, ...], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rows of 1024 lie in one block, or in two where a block is one row."""
    seeds: list[object] = []
    monkeypatch.setattr(module, "stream_seed", lambda *key: seeds.append(key) or stream_seed(*key))
    drawn = Draws(seed=0, total=1024, start=512, count=2, device=device).normal("eps", *shape)
    assert drawn.shape == (2, *shape)
    assert drawn.untyped_storage().nbytes() == rows * 4 * torch.Size(shape).numel()
    assert len(seeds) == (rows // block_rows(*shape) if device == "cpu" else 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", [{"seed": 2}, {"step": 3}, {"phase": "q"}])
def test_another_key_draws_other_numbers(kind: str, change: dict[str, object]) -> None:
    other = Draws(**{"seed": 1, "step": 2, "phase": "p", "total": 12, **change})  # type: ignore[arg-type]
    assert torch.equal(KINDS[kind](DRAWS), KINDS[kind](DRAWS))
    assert not torch.equal(KINDS[kind](DRAWS), KINDS[kind](other))


def test_streams_of_one_step_differ() -> None:
    assert not torch.equal(DRAWS.uniform("a", 3), DRAWS.uniform("b", 3))


def test_drawing_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    for draw in KINDS.values():
        draw(DRAWS)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_meta_device_gives_shapes_without_numbers() -> None:
    meta = Draws(seed=0, total=4, device="meta")
    assert (2, 3) == meta.slice(1, 2).uniform("s", 3).shape
    assert (2, 3) == meta.slice(1, 2).normal("s", 3).shape
    integers = meta.integers("s", 9, 3)
    assert integers.is_meta
    assert integers.dtype == torch.long


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=8), seed=st.integers(0, 2**40))
def test_a_subset_has_exactly_its_size(sizes: list[int], seed: int) -> None:
    subset = Draws(seed=seed, total=len(sizes)).subset("s", 9, torch.tensor(sizes))
    assert sizes == subset.sum(1).tolist()


def test_every_site_is_equally_often_in_a_subset() -> None:
    subset = Draws(seed=0, total=20_000).subset("s", 5, torch.full((20_000,), 2))
    torch.testing.assert_close(subset.float().mean(0), torch.full((5,), 0.4), atol=0.02, rtol=0)


def test_gumbel_numbers_have_the_mean_and_variance_of_the_gumbel_distribution() -> None:
    g = Draws(seed=0, total=100_000).gumbel("s")
    assert g.isfinite().all()
    assert 0.5772 == pytest.approx(g.mean().item(), abs=0.02)
    assert 1.6449 == pytest.approx(g.var().item(), abs=0.05)


def test_gumbel_numbers_are_finite_at_both_ends_of_the_uniform_numbers() -> None:
    class Ends(Draws):
        def uniform(self, stream: str, *shape: int) -> Tensor:
            return torch.tensor([0.0, 1 - 2**-24])

    assert Ends(seed=0, total=2).gumbel("s").isfinite().all()


def test_categorical_draws_with_the_frequencies_of_softmax() -> None:
    logits = torch.tensor([[1.0, -0.5, 0.3, -2.0], [0.0, 0.0, 3.0, -torch.inf]])
    u = Draws(seed=3, total=40_000).uniform("u", 2)
    drawn = categorical(logits.expand(40_000, 2, 4), u)
    reference = torch.multinomial(
        logits.softmax(-1), 40_000, replacement=True, generator=torch.Generator().manual_seed(0)
    )
    for i in range(2):
        ours, torchs = (d.bincount(minlength=4) / 40_000 for d in (drawn[:, i], reference[i]))
        torch.testing.assert_close(ours, torchs, atol=0.015, rtol=0)
        torch.testing.assert_close(ours, logits[i].softmax(-1), atol=0.01, rtol=0)


LOGIT = st.floats(-60, 60, width=32)
EDGE = st.sampled_from([0.0, 1e-30, 0.5, 1 - 2**-24, 0.99999988])


@given(
    rows=st.lists(
        st.lists(st.none() | LOGIT, min_size=5, max_size=5).filter(
            lambda row: any(z is not None for z in row)
        ),
        min_size=1,
        max_size=6,
    ),
    u=EDGE | st.floats(0, 1, exclude_max=True, width=32),
)
@settings(max_examples=300)
def test_codes_without_probability_are_never_drawn(rows: list[list[float | None]], u: float) -> None:
    logits = torch.tensor([[-torch.inf if z is None else z for z in row] for row in rows])
    drawn = categorical(logits, torch.full((len(rows),), u))
    assert ((drawn >= 0) & (drawn < 5)).all()
    assert (logits.softmax(-1).gather(1, drawn[:, None]) > 0).all()


def test_categorical_draws_the_mask_column_of_large_vocabularies_within_range() -> None:
    """The fp32 sum of 16,384 probabilities is not 1; the largest uniform number still finds a code."""
    logits = torch.randn(50, 16_384, generator=torch.Generator().manual_seed(0))
    drawn = categorical(logits, torch.full((50,), 1 - 2**-24))
    assert (drawn < 16_384).all()


def test_a_uniform_number_that_rounds_to_one_still_finds_a_code() -> None:
    u = torch.tensor([1 - 1e-12], dtype=torch.float64)
    assert [1] == categorical(torch.tensor([[0.0, 0.0, -torch.inf]]), u).tolist()


def test_float64_logits_are_drawn_in_float64() -> None:
    tiny = 2.0**-40
    logits = torch.tensor([[0.5 - tiny, 0.5 + tiny]], dtype=torch.float64).log()
    u = torch.tensor([0.5 - tiny / 2], dtype=torch.float64)
    assert [1] == categorical(logits, u).tolist()


def test_recorded_draws_replay_their_rows_and_name_what_is_missing() -> None:
    recorded = RecordedDraws(seed=0, total=3, values={"a": torch.arange(3.0), "b": torch.eye(3) > 0})
    assert [1.0, 2.0] == recorded.slice(1, 2).uniform("a").tolist()
    assert torch.equal(torch.eye(3) > 0, recorded.subset("b", 3, torch.tensor([1, 1, 1])))
    with pytest.raises(KeyError, match="no recorded draw 'c'; recorded: a, b"):
        recorded.normal("c")


@given(size=st.integers(1, 50), epoch=st.integers(0, 5))
def test_a_permutation_holds_every_example_once(size: int, epoch: int) -> None:
    assert list(range(size)) == sorted(permutation(7, epoch, size))


def test_epochs_and_seeds_are_ordered_differently() -> None:
    orders = [permutation(seed, epoch, 40) for seed in (0, 1) for epoch in (0, 1)]
    assert permutation(0, 1, 40) == orders[1]
    assert 4 == len(set(map(tuple, orders)))


def test_stream_seeds_depend_on_every_element_and_its_type() -> None:
    seeds = {stream_seed(*key) for key in [(1, 2), (2, 1), (12,), ("1", 2), (1, 2, ""), ("12",)]}
    assert 6 == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
