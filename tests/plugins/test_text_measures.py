"""Entropy, perplexity and MAUVE against values of published code, and the metrics made of them."""

import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dimo_core.conditions import Conditioning
from dimo_core.errors import UsageError
from dimo_core.metric import Samples
from dimo_core.testing import check_options
from dimo_core.tokens import TokenSpace
from dimo_text.answers import Answers, number_of
from dimo_text.mauve import divergence_curve, frontier_integral, histogram, mauve
from dimo_text.measures import (
    accuracy_under_parallelism,
    entropy,
    ngram_divergence,
    perplexity_of_rows,
    perplexity_until_end,
)
from dimo_text.metric import Entropy, Ngrams, TokensPerPass

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


AREAS = json.loads((Path(__file__).parents[1] / "data" / "llada" / "aup.json").read_text())


@pytest.mark.parametrize("case", AREAS, ids=lambda case: str(case["accuracy"]))
def test_accuracy_under_parallelism(case: dict[str, Any]) -> None:
    points = [(float(x), y) for x, y in zip(case["tokens_per_forward"], case["accuracy"], strict=True)]
    if "error" in case:
        with pytest.raises(ValueError, match="at most 5 points below"):
            accuracy_under_parallelism(points, case["y_max"])
    else:
        assert near(case["aup"], rel=1e-12) == accuracy_under_parallelism(points, case["y_max"])
    with pytest.raises(ValueError, match="at most 5 points below"):
        accuracy_under_parallelism([], 100.0)


def test_only_tokens_that_count_are_measured(tiny_teacher: Any) -> None:
    x = torch.tensor([[9, 1, 1, 2, 8, 8], [9, 9, 1, 2, 3, 4]])
    counted = torch.tensor([[0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]]).bool()
    first, second = (entropy(x[i : i + 1][:, counted[i]]) for i in (0, 1))
    assert [float(first), float(second)] == entropy(x, counted).tolist()
    assert [0.0] == entropy(x[:1], torch.zeros(1, 6).bool()).tolist()
    whole = Samples(conditions=("a", "b"), tokens=x, counted=counted)
    pairs = torch.tensor([[1, 1], [1, 2], [1, 2], [2, 3], [3, 4]])
    real = Samples(conditions=tuple("abcde"), tokens=pairs)
    teacher = made(tiny_teacher, tokens=TokenSpace(length=6, codes=10, mask_id=10))
    assert near(0.0, abs=1e-12) == Ngrams(longest=2).compute(whole, real, teacher)["ngram_2"]
    assert Ngrams(longest=2).compute(attrs.evolve(whole, counted=None), real, teacher)["ngram_2"] > 0.1
    assert near((float(first) + float(second)) / 2) == Entropy().compute(whole, None, teacher)["entropy"]
    none = attrs.evolve(whole, counted=torch.zeros_like(counted))
    with pytest.raises(UsageError, match="cannot be counted"):
        Ngrams().compute(none, real, teacher)


def test_tokens_per_pass_are_those_that_count_by_the_passes_of_their_samples(
    tiny_teacher: Any,
) -> None:
    x, counted = torch.zeros(2, 6, dtype=torch.long), torch.zeros(2, 6).bool()
    counted[0, :4] = counted[1, :3] = True
    drawn = Samples(conditions=("a", "b"), tokens=x, counted=counted, calls=torch.tensor([2, 8]))
    teacher = made(tiny_teacher, tokens=TokenSpace(length=6, codes=10, mask_id=10))
    assert {"length": 3.5, "tokens_per_pass": 0.7} == TokensPerPass().compute(drawn, None, teacher)
    assert {"length": 3.5} == TokensPerPass().compute(attrs.evolve(drawn, calls=None), None, teacher)
    whole = attrs.evolve(drawn, counted=None)
    assert {"length": 6.0, "tokens_per_pass": 1.2} == TokensPerPass().compute(whole, None, teacher)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("6 times 7 is 42.", "42"),
        ("it costs $1,234.50", "1234.50"),
        ("#### 7 and then 8", "8"),
        ("so \\boxed{-3} as 4 = 4", "-3"),
        ("#### none, but 5", "5"),
        ("nothing", None),
    ],
)
def test_the_number_of_a_text(text: str, number: str | None) -> None:
    assert (None if number is None else Decimal(number)) == number_of(text)


def made(tiny: Any, **own: Any) -> Any:
    """The tiny teacher with other members."""
    return type("Made", (type(tiny),), own)()


def talker(tiny: Any, *said: str) -> Any:
    """A teacher whose tokens are lines of a list."""

    def texts(_: Any, x: torch.Tensor, c: torch.Tensor) -> tuple[str, ...]:
        return tuple(said[i] for i in x[:, 0].tolist())

    def encode(_: Any, raw: Any) -> torch.Tensor:
        return torch.zeros(len(raw))

    return made(tiny, texts=texts, encode_conditions=encode, conditioning=Conditioning(kind="text"))


def test_answers_are_compared_with_those_of_a_file(tmp_path: Path, tiny_teacher: Any) -> None:
    path = tmp_path / "qa.jsonl"
    lines = [{"prompt": "1+1?", "answer": "#### 2"}, {"prompt": "10*100?", "answer": 1000}]
    path.write_text("\n".join(map(json.dumps, lines)))
    check_options(Answers(path=str(path)))
    asked = ("1+1?", "10*100?", "1+1?", "10*100?")
    drawn = Samples(conditions=asked, tokens=torch.arange(4)[:, None])
    teacher = talker(tiny_teacher, "it is 2", "1,000.0", "3", "none")
    assert {"accuracy": 0.5} == Answers(path=str(path)).compute(drawn, None, teacher)
    assert {"accuracy": 0.0} == Answers(path=str(path), kind="text").compute(drawn, None, teacher)
    exact = talker(tiny_teacher, "####  2", "1000", "2", "")
    assert {"accuracy": 0.5} == Answers(path=str(path), kind="text").compute(drawn, None, exact)
    silent = made(tiny_teacher, conditioning=Conditioning(kind="text"), encode_conditions=lambda _, raw: raw)
    with pytest.raises(UsageError, match="samples of teacher Made are no text"):
        Answers(path=str(path)).compute(drawn, None, silent)
    with pytest.raises(UsageError, match=r"no answer for prompt '2\+2\?'"):
        Answers(path=str(path)).compute(attrs.evolve(drawn, conditions=("2+2?",) * 4), None, teacher)
    path.write_text('{"prompt": "1+1?", "answer": "two"}')
    with pytest.raises(UsageError, match=r"'two' has no number\. Choose kind: text"):
        Answers(path=str(path)).compute(drawn, None, teacher)
    path.write_text('{"prompt": "1+1?"}')
    with pytest.raises(UsageError, match=r"has no answer\. Expected JSON lines with 'prompt' and 'answer'"):
        Answers(path=str(path)).compute(drawn, None, teacher)
