"""The showcase: the same conditions and draws whenever it is asked."""

import io

import pytest
import torch
from PIL import Image

from dimo_core.guidance import Constant
from dimo_core.report.fixed_samples import Showcase


@pytest.fixture
def showcase(toy):
    def make(teacher=None, **options):
        return Showcase.of(
            teacher or toy.Teacher(), toy.Conditions(), seed=3, device=torch.device("cpu"), **options
        )

    return make


def test_equal_conditions_stand_together_and_fill_rows(showcase):
    assert ("even",) * 4 + ("odd",) * 4 == showcase(rows=4, columns=2).names


def test_the_same_generator_gives_the_same_preview_every_time(showcase, toy):
    first, second = (showcase().of_generator(toy.Generator()) for _ in range(2))
    assert torch.equal(first.images, second.images)
    assert (64, 1, 2, 2) == first.images.shape


def test_networks_get_their_modes_back(showcase, toy):
    generator = toy.Generator().train()
    showcase().of_generator(generator)
    assert generator.training


def test_teacher_and_generator_stand_side_by_side(showcase, toy):
    picture = showcase(rows=2, columns=3).teacher_beside_generator(
        toy.Generator(), toy.Backbone(), toy.Sampler(), Constant(), 4
    )
    single = showcase(rows=2, columns=3).picture(showcase(rows=2, columns=3).of_generator(toy.Generator()))
    sizes = [Image.open(io.BytesIO(p.data)).width for p in (picture, single)]
    assert sizes[0] > 2.5 * sizes[1] - 100
    assert ".png" == picture.suffix


def test_tokens_are_shown_as_text(showcase, toy):
    picture = showcase(toy.TokensTeacher(), rows=2, columns=1).teacher_beside_generator(
        toy.Generator(), toy.Backbone(), toy.Sampler(), Constant(), 4
    )
    text = picture.data.decode()
    assert ".txt" == picture.suffix
    assert ["# teacher, 4 steps", "# generator, 1 step", "# teacher, 1 step"] == [
        line for line in text.splitlines() if line.startswith("#")
    ]
    assert "even  0 0 0 0\nodd   0 0 0 0\n" == text.split("# teacher, 1 step\n")[1]
