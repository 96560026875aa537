"""Entropy, perplexity and MAUVE against values of published code, and the metrics made of them."""

import json
import math
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dimo_core.errors import UsageError
from dimo_core.metric import Samples
from dimo_core.testing import check_options
from dimo_text.mauve import divergence_curve, frontier_integral, histogram, mauve
from dimo_text.measures import entropy, ngram_divergence, perplexity_of_rows, perplexity_until_end
from dimo_text.metric import Entropy, Ngrams

STORED: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "data" / "mdlm" / "text_metrics.json").read_text()
)
TOKENS = torch.tensor(STORED["tokens"])
NLL = torch.tensor(STORED["nll_of_tokens_1_to_end"], dtype=torch.float64)
near = pytest.approx


def test_entropy() -> None:
    assert near(STORED["entropy_per_sample"], abs=1e-6) == entropy(TOKENS).tolist()
    assert near(STORED["entropy_mean"], abs=1e-6) == float(entropy(TOKENS).mean())


def test_entropy_of_long_samples_is_counted_alike() -> None:
    x = torch.randint(50, (3, 300), generator=torch.Generator().manual_seed(0))
    for row, found in zip(x, entropy(x).tolist(), strict=True):
        f = row.bincount().double() / 300
        assert near(float(-torch.xlogy(f, f).sum())) == found


def test_perplexity_until_the_end() -> None:
    rows = len(TOKENS) // STORED["batch_size"] * STORED["batch_size"]
    found, count = perplexity_until_end(NLL[:rows], TOKENS[:rows], STORED["eos_id"])
    assert STORED["generative_perplexity_mdlm_counted_tokens"] == count
    assert near(STORED["generative_perplexity_mdlm"], rel=1e-12) == found


def test_perplexity_of_all_tokens() -> None:
    assert near(STORED["generative_perplexity_sdtt"], rel=1e-12) == perplexity_of_rows(NLL)


@pytest.mark.parametrize("case", STORED["mauve"], ids=lambda case: str(case["p_counts"]))
def test_mauve(case: dict[str, Any]) -> None:
    p, q = (histogram(torch.tensor(case[name])) for name in ("p_counts", "q_counts"))
    x, y = divergence_curve(p, q)
    assert near(case["curve_x"], abs=1e-12) == x.tolist()
    assert near(case["curve_y"], abs=1e-12) == y.tolist()
    assert near(case["mauve"], rel=1e-12) == mauve(p, q)
    assert near(case["frontier_integral"], rel=1e-12) == frontier_integral(p, q)
    p, q = (histogram(torch.tensor(case[name]), 0.5) for name in ("p_counts", "q_counts"))
    assert near(case["mauve_star"], rel=1e-12) == mauve(p, q)
    assert near(case["frontier_integral_star"], rel=1e-12) == frontier_integral(p, q)


def test_the_ends_of_the_scales() -> None:
    p, q = histogram(torch.tensor([3, 1, 0, 0])), histogram(torch.tensor([0, 0, 2, 2]))
    assert near(1.0) == frontier_integral(p, q)
    assert 0.0 == frontier_integral(p, p)
    assert mauve(p, q) < 0.01


@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1), st.integers(1, 3))
def test_ngrams_of_the_same_text_are_at_distance_nothing_and_of_others_within_bounds(
    rows: list[list[int]], n: int
) -> None:
    x = torch.tensor(rows)
    assert near(0.0, abs=1e-12) == ngram_divergence(x, x.flip(0), n, 8)
    assert near(math.log(2)) == ngram_divergence(x, x + 4, n, 8)


def test_ngrams_by_hand() -> None:
    a, b = torch.tensor([[0, 1, 0]]), torch.tensor([[0, 1], [1, 1]])
    # pairs: 01 and 10 against 01 and 11, each 1/2; m = 1/2, 1/4, 1/4
    assert near(1.5 * math.log(2) - math.log(2)) == ngram_divergence(a, b, 2, 2)
    with pytest.raises(ValueError, match="n-grams of 3 tokens"):
        ngram_divergence(a, b, 3, 2)
    with pytest.raises(ValueError, match="of 3,000,000 codes"):
        ngram_divergence(a, a, 3, 3_000_000)


def samples(tokens: torch.Tensor | None) -> Samples:
    return Samples(conditions=(0,) * 2, tokens=tokens)


def test_the_metrics(tiny_teacher: Any) -> None:
    check_options(Entropy())
    check_options(Ngrams(longest=2))
    x, other = torch.tensor([[0, 0, 1, 1], [2, 2, 2, 2]]), torch.tensor([[0, 1, 1, 1], [2, 2, 3, 2]])
    assert {"entropy": near(math.log(2) / 2)} == Entropy().compute(samples(x), None, tiny_teacher)
    found = Ngrams().compute(samples(x), samples(other), tiny_teacher)
    assert {f"ngram_{n}": near(ngram_divergence(x, other, n, 5)) for n in (1, 2, 3)} == found
    with pytest.raises(UsageError, match="the evaluation plan names no data"):
        Ngrams().compute(samples(x), None, tiny_teacher)
    with pytest.raises(UsageError, match="these samples have no tokens"):
        Entropy().compute(samples(None), None, tiny_teacher)
    with pytest.raises(UsageError, match="Choose a smaller option 'longest'"):
        Ngrams(longest=4).compute(samples(x[:, :3]), samples(other), tiny_teacher)
    assert attrs.evolve(Ngrams(), longest=1).compute(samples(x), samples(x), tiny_teacher) == {"ngram_1": 0}
