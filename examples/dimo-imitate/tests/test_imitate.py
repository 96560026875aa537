"""The objective keeps what dimo relies on, and starts where the generator is the teacher."""

import torch
from dimo_core.draws import Draws
from dimo_core.guidance import Constant
from dimo_core.method.one_step import OneStep
from dimo_core.objective import Batch, Ingredients
from dimo_core.testing import TinyTeacher, check_objective
from dimo_divergences import FKL

from dimo_imitate.objective import Imitate

TEACHER = TinyTeacher()


def ingredients(scale: float) -> Ingredients:
    """A generator without noise on its embeddings, so that teacher and generator see the same."""
    return Ingredients(
        teacher=TEACHER,
        generator=OneStep(sigma_init=0.0),
        divergence=FKL(),
        guidance=Constant(scale=scale),
    )


def test_it_keeps_the_contract() -> None:
    check_objective(Imitate(), ingredients(2.0), [0, 1, 2, 0])


def test_an_untrained_generator_is_the_teacher_without_guidance_and_not_with_it() -> None:
    batch = Batch(conditions=TEACHER.encode_conditions([0, 1]))
    losses = []
    for scale in (1.0, 3.0):
        (phase,) = Imitate().build(ingredients(scale)).phases()
        losses.append(phase.accumulate(batch, Draws(seed=0, total=2))["loss"])
    torch.testing.assert_close(losses[0], torch.tensor(0.0), atol=1e-6, rtol=0)
    assert losses[1] > 1e-4
