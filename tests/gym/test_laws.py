"""Laws, conditionals and floors against brute force."""

import math
from itertools import combinations, product

import pytest
import torch
from torch import Tensor

from dimo_gym import laws
from dimo_gym.distances import compared
from dimo_gym.floors import best_floor, entropies, multi_information, random_floor
from dimo_gym.joints import Known, sequences
from dimo_gym.partial import conditionals, marginals, states

L, V = 3, 2
GENERATOR = torch.Generator().manual_seed(1)
P = torch.rand(2, V**L, generator=GENERATOR, dtype=torch.float64).softmax(-1) ** 3
P = P / P.sum(-1, keepdim=True)
X = sequences(L, V)
NETWORK = torch.rand((V + 1) ** L, L, V, generator=GENERATOR, dtype=torch.float64)
NETWORK = NETWORK / NETWORK.sum(-1, keepdim=True)
"""What some network says, which knows nothing of P."""


def at(state: tuple[int, ...]) -> int:
    return sum(digit * (V + 1) ** (L - 1 - i) for i, digit in enumerate(state))


def agrees(x: Tensor, state: tuple[int, ...]) -> Tensor:
    return torch.stack([(x[:, i] == d) | (d == V) for i, d in enumerate(state)]).all(0)


def test_conditionals_and_marginals_are_sums_over_the_joint() -> None:
    found, seen = conditionals(P, L, V), marginals(P, L, V)
    for row, state in enumerate(map(tuple, states(L, V).tolist())):
        assert at(state) == row
        assert seen[1, row] == pytest.approx(P[1][agrees(X, state)].sum().item(), abs=1e-15)
        for i in range(L):
            others = agrees(X, (*state[:i], V, *state[i + 1 :]))
            for code in range(V):
                share = P[1][others & (X[:, i] == code)].sum() / P[1][others].sum()
                assert found[1, row, i, code].item() == pytest.approx(share.item(), abs=1e-14)


def walk(state: tuple[int, ...], counts: list[int]) -> dict[tuple[int, ...], float]:
    """The law from a state, one choice after the other."""
    if not counts:
        return {state: 1.0}
    free, law = [i for i in range(L) if state[i] == V], dict[tuple[int, ...], float]()
    sets = list(combinations(free, counts[0]))
    for chosen in sets:
        for codes in product(range(V), repeat=counts[0]):
            now, share = list(state), 1 / len(sets)
            for i, code in zip(chosen, codes, strict=True):
                now[i], share = code, share * NETWORK[at(state), i, code].item()
            for end, more in walk(tuple(now), counts[1:]).items():
                law[end] = law.get(end, 0.0) + share * more
    return law


@pytest.mark.parametrize("counts", [[3], [1, 2], [2, 1], [1, 1, 1], [1, 0, 2]])
def test_the_law_of_a_random_order_is_that_of_all_its_choices(counts: list[int]) -> None:
    q = laws.sampled(NETWORK, [laws.exactly(n) for n in counts], L, V)
    expected = walk((V,) * L, counts)
    torch.testing.assert_close(q, torch.tensor([expected[tuple(x)] for x in X.tolist()]).double())


def test_the_law_of_ancestral_sampling_is_that_of_all_its_choices() -> None:
    law = {(V,) * L: 1.0}
    for probability in (1 / 3, 1 / 2, 1.0):
        after = dict[tuple[int, ...], float]()
        for state, share in law.items():
            options = [[d] if d < V else range(V + 1) for d in state]
            for now in product(*options):
                q = share
                for i in (i for i in range(L) if state[i] == V):
                    own = NETWORK[at(state), i, now[i]].item() if now[i] < V else 1.0
                    q *= own * (probability if now[i] < V else 1 - probability)
                after[now] = after.get(now, 0.0) + q
        law = after
    q = laws.sampled(NETWORK, [laws.each_with(1 / (3 - i)) for i in range(3)], L, V)
    torch.testing.assert_close(q, torch.tensor([law[tuple(x)] for x in X.tolist()]).double())


def test_the_law_of_a_generator_is_a_mean_over_its_inputs() -> None:
    x_init = laws.initial(L, V, 2)
    assert len(x_init) == 3 * V
    first = torch.rand(len(x_init), L, V, generator=GENERATOR, dtype=torch.float64)
    first = first / first.sum(-1, keepdim=True)
    one = torch.stack([torch.stack([first[:, i, x[i]] for i in range(L)]).prod(0).mean() for x in X])
    torch.testing.assert_close(laws.generated(first, None, [laws.exactly(L)]), one)
    two, expected = laws.generated(first, NETWORK, [laws.exactly(1), laws.exactly(2)]), torch.zeros(V**L)
    for k, i, code in product(range(len(x_init)), range(L), range(V)):
        state = tuple(code if j == i else V for j in range(L))
        for end, share in walk(state, [2]).items():
            place = sum(d * V ** (L - 1 - j) for j, d in enumerate(end))
            expected[place] += first[k, i, code] / len(x_init) / L * share
    torch.testing.assert_close(two, expected.double(), atol=1e-7, rtol=0)


def test_the_mean_of_products_is_that_of_its_definition() -> None:
    p = torch.rand(5, L, V, generator=GENERATOR, dtype=torch.float64).softmax(-1)
    each = torch.stack([torch.stack([p[:, i, x[i]] for i in range(L)]).prod(0).mean() for x in X])
    torch.testing.assert_close(laws.product_mean(p), each)


def test_what_is_not_finished_is_refused() -> None:
    with pytest.raises(ValueError, match="not finished"):
        laws.sampled(NETWORK, [laws.exactly(1)], L, V)


def test_distances_are_those_of_their_definitions() -> None:
    p, q = torch.tensor([0.5, 0.5, 0.0]).double(), torch.tensor([0.25, 0.5, 0.25]).double()
    found = compared(p, q)
    assert (found.tv, found.outside) == (0.25, 0.25)
    assert found.kl == pytest.approx(0.5 * math.log(2))
    assert found.reverse_kl == math.inf


@pytest.mark.parametrize("counts", [[3], [1, 2], [2, 1], [1, 1, 1]])
def test_floors_are_what_the_exact_teacher_loses_in_each_order(counts: list[int]) -> None:
    h, losses = entropies(P[0], L, V), list[float]()
    known = conditionals(P, L, V)[0]
    for order in {tuple(order) for order in torch.cartesian_prod(*[torch.arange(L)] * L).tolist()}:
        if len(set(order)) < L:
            continue
        q, done = torch.ones(V**L, dtype=torch.float64), 0
        for n in counts:
            block, before = order[done : done + n], order[:done]
            for row, x in enumerate(X.tolist()):
                state = at(tuple(x[i] if i in before else V for i in range(L)))
                for i in block:
                    q[row] *= known[state, i, x[i]]
            done += n
        losses.append(compared(P[0], q).kl)
    assert random_floor(h, counts) == pytest.approx(sum(losses) / len(losses), abs=1e-12)
    assert best_floor(h, counts) == pytest.approx(min(losses), abs=1e-12)
    if counts == [3]:
        assert multi_information(h) == pytest.approx(losses[0], abs=1e-12)


def test_joints_are_distributions_with_the_support_that_they_promise() -> None:
    for kind in ("table", "markov", "ising", "halves", "aligned"):
        known = Known(joint=kind)
        p = known.p()
        torch.testing.assert_close(p.sum(-1), torch.ones(2).double())
        assert not torch.equal(p[0], p[1])
        x = sequences(known.shape.length, known.shape.codes)
        if kind == "markov":
            assert torch.equal(p[1] > 0, ((x[:, 1:] - x[:, :-1] - 2) % 3 != 0).all(1))
        if kind == "halves":
            assert torch.equal(p[1] > 0, (x[:, 2:] == (x[:, :2] + 1) % 4).all(1))
            assert p[0].max() == pytest.approx(1 / 16)
        if kind == "aligned":
            same = (x == x[:, :1]).all(1)
            assert torch.equal(p[0] > 0, same)
            assert torch.equal(p[1] > 0, same & (x[:, 0] < 4))
            assert p[0].max() == pytest.approx(1 / 8)
            assert p[1].max() == pytest.approx(1 / 4)
        if kind == "ising":
            assert p[0].argmax().item() in (0, 511)
            assert x[p[1].argmax()].tolist() in ([0, 1, 0, 1, 0, 1, 0, 1, 0], [1, 0, 1, 0, 1, 0, 1, 0, 1])


def test_aligned_codes_agree_as_often_as_its_strength_says() -> None:
    known = Known(joint="aligned", length=3, codes=3, strength=0.7)
    p, x = known.p(), sequences(3, 3)
    torch.testing.assert_close(p.sum(-1), torch.ones(2).double())
    keep = 1 - (1 - 1 / 3) * math.exp(-0.7)
    other = (1 - keep) / 2
    # of both 0 and 1 the same sequence 0, 0, 1 may come
    assert p[1][x.tolist().index([0, 0, 1])] == pytest.approx((keep**2 * other + other**2 * keep) / 2)
    assert Known(joint="aligned", strength=0.0).p()[0].std() < 1e-12


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"joint": "ising", "length": 8}, "square grid"),
        ({"joint": "halves", "length": 5}, "even number"),
        ({"joint": "table", "length": 8}, "enumerated"),
    ],
)
def test_sizes_that_cannot_be_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Known(**options)  # type: ignore[arg-type]
