"""The sampler keeps what dimo relies on, and decides sites in their order."""

import pytest
from dimo_core.backbone import inference
from dimo_core.draws import Draws
from dimo_core.guidance import Constant
from dimo_core.testing import TinyTeacher, check_sampler

from dimo_raster.sampler import Raster

TEACHER = TinyTeacher()


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_it_keeps_the_contract(temperature: float) -> None:
    check_sampler(Raster(temperature=temperature), TEACHER, [0, 1, 2])


def test_what_is_masked_after_a_step_comes_last() -> None:
    network, c = TEACHER.network(), TEACHER.encode_conditions([0, 1])
    with inference(network):
        sampled = Raster().sample(
            TEACHER,
            network,
            c,
            steps=2,
            guidance=Constant(),
            draws=Draws(seed=0, total=2),
            keep_trajectory=True,
        )
    masked = sampled.trajectory[0] == TEACHER.tokens.mask_id
    assert masked.tolist() == [[False] * 3 + [True] * 3] * 2
