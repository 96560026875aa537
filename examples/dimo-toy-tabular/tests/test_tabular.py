"""The package's own tests: dimo's conformance checks, and that the table is exact."""

from itertools import product

import pytest
import torch
from dimo_toy_tabular.coins import Coins
from dimo_toy_tabular.divergences import Bhattacharyya, Perimeter
from dimo_toy_tabular.joint import CODES, LENGTH, MASK, histogram, one_step, total_variation
from dimo_toy_tabular.teacher import Tabular

from dimo_core.divergence import Divergence
from dimo_core.errors import UsageError
from dimo_core.testing import check_conditions, check_divergence, check_teacher

TEACHER = Tabular(noise=0.1)


def test_the_teacher_keeps_the_contract() -> None:
    check_teacher(TEACHER, [0, 1, 1])


@pytest.mark.parametrize("divergence", [Bhattacharyya(), Perimeter()])
def test_the_divergences_keep_the_contract(divergence: Divergence) -> None:
    check_divergence(divergence)


def test_the_coins_keep_the_contract() -> None:
    check_conditions(Coins(heads=0.3), TEACHER)


def test_a_coin_is_called_by_its_side_or_its_number() -> None:
    assert Coins().parse(TEACHER.conditioning, ["heads", "tails", "1", "0"]) == [0, 1, 1, 0]
    with pytest.raises(
        UsageError, match=r"unknown class 'edge'\. Known: heads, tails; or an index from 0 to 1"
    ):
        Coins().parse(TEACHER.conditioning, ["edge"])


def test_a_coin_shows_heads_as_often_as_asked() -> None:
    throws = Coins(heads=0.3).open(TEACHER.conditioning, seed=0).read(5, 20_000)
    assert sum(side == 0 for side in throws) / len(throws) == pytest.approx(0.3, abs=0.015)


@pytest.mark.parametrize("side", [0, 1])
def test_every_conditional_is_that_of_the_joint_distribution(side: int) -> None:
    network, joint = TEACHER.network(), TEACHER.joint()[side]
    for visible in product(range(CODES + 1), repeat=LENGTH):
        x = torch.tensor([visible])
        p = network.logits(x, torch.tensor([side]), mask_ratio=torch.ones(1)).softmax(-1)[0]
        for site in (i for i in range(LENGTH) if visible[i] == MASK):
            weights = [
                sum(joint[word] for word in product(*(range(CODES) if t == MASK else (t,) for t in filled)))
                for filled in ((*visible[:site], code, *visible[site + 1 :]) for code in range(CODES))
            ]
            expected = torch.stack(weights) / sum(weights)
            torch.testing.assert_close(p[site].double(), expected, atol=1e-5, rtol=0)


def test_one_step_sampling_is_far_from_the_joint_distribution() -> None:
    joint = TEACHER.joint()
    assert joint.flatten(1).sum(1).tolist() == pytest.approx([1.0, 1.0])
    assert (total_variation(one_step(joint), joint) > 0.8).all()


def test_the_histogram_counts_sequences() -> None:
    shares = histogram(torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3], [3, 3, 3, 0], [0, 0, 0, 0]]))
    assert shares[0, 1, 2, 3] == 0.5
    assert shares[3, 3, 3, 0] == shares[0, 0, 0, 0] == 0.25
