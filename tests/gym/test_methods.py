"""Every method of the gym trains, and every method that there is is one of the gym's."""

import math
from typing import Any

import pytest

from dimo_distillers.sdtt import Sdtt
from dimo_gym.cells import Cell, installed, job_of, measured, rounds, trained
from dimo_gym.figures import OBJECTIVES, style
from dimo_gym.methods import METHODS, NONE

TRAINED = {"few_step": "FewStep", "imdm": "Imdm", "mixture": "Mixture"}


def cell(name: str, steps: int, knows: Any = "exact") -> Cell:
    return Cell("halves", knows, name, METHODS[name].divergence or NONE, steps, 0)


@pytest.mark.parametrize("name", METHODS)
def test_a_cell_of_every_method_trains_and_is_measured(name: str) -> None:
    steps = 1 if METHODS[name].one_step else 2
    found = measured(cell(name, steps), training=4, batch=16)
    assert 0 < found["data"]["tv"] < 1
    assert found["data"]["outside"] > 0
    exact = METHODS[name].generator == "few_step"
    assert (found["how"], found["error"] is None) == ("exact" if exact else "traced", exact)


def test_every_objective_and_generator_that_there_is_is_compared() -> None:
    objectives = {method.objective["name"] for method in METHODS.values()}
    # certainty sharpens answers that a sampler takes in parallel: no law is its target
    assert objectives | {"masked-modelling", "certainty"} == {*installed().names("objective")}
    generators = {method.generator for method in METHODS.values()}
    assert generators | {"one_step", "lora"} == {*installed().names("generator")}
    assert {method.divergence for method in METHODS.values()} <= {None, *installed().names("divergence")}
    assert {style(name)["color"] for name in METHODS} == {*OBJECTIVES.values()}
    looks = [tuple(sorted(style(name).items())) for name in METHODS]
    assert len({*looks}) == len(looks)


@pytest.mark.parametrize("name", METHODS)
def test_jobs_are_given_what_their_objective_uses(name: str) -> None:
    job = job_of(cell(name, 1), training=10, batch=4)
    assert type(job.generator).__name__ in ("OneStep", TRAINED[METHODS[name].generator])
    assert hasattr(job.objective, "auxiliary") == (METHODS[name].auxiliary is not None)
    assert job.teacher.extra == (METHODS[name].generator == "mixture")  # type: ignore[attr-defined]


def test_pairs_learn_from_what_their_teacher_draws_and_others_from_the_joint() -> None:
    for name, warm, drawn in (
        ("pairs", False, "learnt"),
        ("pairs-dimo", True, "learnt"),
        ("sdtt", False, "joint"),
    ):
        job: Any = job_of(cell(name, 1, "learnt"), training=10, batch=4, warm=warm)
        assert (job.data.drawn_by, job.data.joint) == (drawn, "halves")
    assert job_of(cell("pairs-dimo", 1), training=10, batch=4).data is None
    halves = [job_of(cell("pairs-dimo", 1), training=11, batch=4, warm=warm) for warm in (True, False)]
    assert [job.train.steps for job in halves] == [5, 6]


def test_a_training_goes_on_from_the_weights_that_it_is_given() -> None:
    warm = trained(job_of(cell("pairs-dimo", 1), training=8, batch=16, warm=True)).state_dict()
    job = job_of(cell("pairs-dimo", 1), training=2, batch=16)
    after, anew = trained(job, warm).state_dict(), trained(job).state_dict()
    (table,) = warm
    assert (after[table] - warm[table]).abs().sum() < (after[table] - anew[table]).abs().sum()


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16])
def test_the_last_round_of_sdtt_teaches_steps_as_long_as_the_generators(steps: int) -> None:
    sdtt = Sdtt(**rounds(steps, 300))
    assert sdtt.dt(299) * sdtt.substeps == pytest.approx(1 / steps)
    assert sdtt.dt(0) == 1 / sdtt.first_steps
    taken = math.log2(sdtt.dt(299) / sdtt.dt(0)) + 1
    assert sdtt.round_steps * taken <= 300
