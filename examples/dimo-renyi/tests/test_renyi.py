"""The divergence keeps what dimo relies on, and is what it says."""

import pytest
import torch
from dimo_core.testing import check_divergence

from dimo_renyi.divergence import Renyi


@pytest.mark.parametrize("order", [0.1, 0.5, 0.9])
def test_it_keeps_the_contract(order: float) -> None:
    check_divergence(Renyi(order=order))


def test_between_two_coins_it_is_known() -> None:
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.2, 0.8])
    expected = -2 * (p * q).sqrt().sum().log()
    torch.testing.assert_close(Renyi(order=0.5).value(p.log(), q.log()), expected)
