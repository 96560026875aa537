"""Fixed samples: the same conditions and draws whenever it is asked."""

import io

import attrs
import pytest
import torch
from PIL import Image

from dimo_core.guidance import Constant
from dimo_core.report.sheets import FixedSamples
from dimo_core.sampler import TeacherSampling


@pytest.fixture
def fixed(toy):
    def make(teacher=None, **changes):
        device = torch.device("cpu")
        made = FixedSamples.of(teacher or toy.Teacher(), toy.Conditions(), seed=3, device=device)
        return attrs.evolve(made, **changes)

    return make


def test_equal_conditions_stand_together_and_fill_rows(fixed):
    assert ("even",) * 32 + ("odd",) * 32 == fixed().names
    assert 8 == fixed().columns


def test_the_same_generator_gives_the_same_preview_every_time(fixed, toy):
    generators = toy.Generator(), toy.Generator()
    first, second = (fixed().preview(g, g.sample) for g in generators)
    assert torch.equal(first.images, second.images)
    assert (64, 1, 2, 2) == first.images.shape


def test_networks_get_their_modes_back(fixed, toy):
    generator = toy.Generator().train()
    fixed().of_generator(generator)
    assert generator.training


def test_teacher_and_generator_stand_side_by_side(fixed, toy):
    picture = fixed(raw=(0, 0, 0, 1, 1, 1), columns=3).side_by_side(
        toy.Generator(), toy.Backbone(), TeacherSampling(steps=4, sampler=toy.Sampler(), guidance=Constant())
    )
    single = fixed(raw=(0, 0, 0, 1, 1, 1), columns=3).of_generator(toy.Generator())
    sizes = [Image.open(io.BytesIO(p.data)).width for p in (picture, single)]
    assert sizes[0] > 2.5 * sizes[1] - 100
    assert ".png" == picture.suffix


def test_tokens_are_shown_as_text(fixed, toy):
    picture = fixed(toy.TokensTeacher(), raw=(0, 1), columns=1).side_by_side(
        toy.Generator(), toy.Backbone(), TeacherSampling(steps=4, sampler=toy.Sampler(), guidance=Constant())
    )
    text = picture.data.decode()
    assert ".txt" == picture.suffix
    assert ["# teacher, 4 steps", "# generator, 1 step", "# teacher, 1 step"] == [
        line for line in text.splitlines() if line.startswith("#")
    ]
    assert "even  0 0 0 0\nodd   0 0 0 0\n" == text.split("# teacher, 1 step\n")[1]
