"""Scenes: what they show, and who may see which handwriting."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dimo_core.conditions import Conditioning
from dimo_core.data.feeds import TokenFeed
from dimo_core.errors import UsageError
from dimo_core.sources import Examples
from dimo_core.suggestions import EvaluationPlan
from dimo_core.teacher import Teacher
from dimo_core.testing import check_options
from dimo_scenes.captions import TAGS, parse
from dimo_scenes.combinations import colour_is_held_out, pair_is_held_out, unseen
from dimo_scenes.composing import GROUND, INKS, PARTS, compose, handwriting, part_of, stored
from dimo_scenes.data import SPLITS, Scenes
from dimo_scenes.drawing import LEFT, MIDDLE, RIGHT, Item, uniforms
from dimo_scenes.metric import shows

COUNTS = {"teacher": 1078, "reader": 362, "reference": 357}


def items(examples: Examples) -> list[tuple[Item, ...]]:
    columns = zip(*(examples.details[name].tolist() for name in ("digits", "colours", "places")), strict=True)
    return [tuple(Item(*item) for item in zip(*scene, strict=True) if item[0] >= 0) for scene in columns]


def test_no_scan_is_in_two_parts() -> None:
    tensors = stored()
    assert COUNTS == {name: len(handwriting(name).images) for name in PARTS}
    assert torch.equal(part_of(tensors["digits"].long()), tensors["part"].long())
    seen = [set(map(bytes, handwriting(name).images.flatten(1).numpy())) for name in PARTS]
    assert 0 == len(seen[0] & seen[1]) + len(seen[0] & seen[2]) + len(seen[1] & seen[2])


def test_scans_are_chosen_by_digit() -> None:
    digits = torch.arange(10).repeat(40)
    chosen = handwriting("reader").choose(digits, torch.rand(400, generator=torch.Generator().manual_seed(0)))
    tensors = stored()
    known = {
        bytes((image.float() / 16).flatten().numpy()): int(digit)
        for image, digit in zip(tensors["images"], tensors["digits"], strict=True)
    }
    assert digits.tolist() == [known[bytes(image.flatten().numpy())] for image in chosen]


def test_the_scans_are_those_of_scikit_learn_and_the_file_is_repeated(tmp_path: Path) -> None:
    pytest.importorskip("sklearn.datasets")
    from dimo_scenes.make_data import make_data

    make_data(tmp_path / "scans.safetensors")
    made = load_file(tmp_path / "scans.safetensors")
    assert all(torch.equal(tensor, made[name]) for name, tensor in stored().items())


@pytest.mark.parametrize("split", SPLITS)
def test_each_scene_shows_what_its_caption_says(split: str) -> None:
    examples = Scenes().read(split, 0, 600)
    captions = [parse(text) for text in examples.texts]
    assert all(map(shows, items(examples), captions))
    assert [TAGS[label] for label in examples.labels.tolist()] == [caption.tag for caption in captions]
    assert (600, 3, 16, 16) == tuple(examples.images.shape)


def test_training_pictures_show_no_held_out_combination_even_where_the_caption_is_silent() -> None:
    for scene in items(Scenes(scenes=4000).load("teacher")):
        assert not any(colour_is_held_out(item.digit, item.colour) for item in scene)
        assert len(scene) == 1 or not pair_is_held_out(scene[0].digit, scene[1].digit)


@pytest.mark.parametrize("split", ["reference", "floor"])
def test_reference_and_floor_show_the_evaluation_prompts(split: str) -> None:
    examples = Scenes(held_out=50).load(split)
    assert all(len(unseen(parse(text))) == 1 for text in examples.texts)
    assert Scenes(held_out=50).load("reference").texts == examples.texts


def test_the_reader_sees_every_combination() -> None:
    scenes = items(Scenes(held_out=4000).load("reader"))
    assert 60 == len({(item.digit, item.colour) for scene in scenes for item in scene})
    assert 45 == len({frozenset(item.digit for item in scene) for scene in scenes if len(scene) == 2})


def test_either_order_occurs_where_the_caption_leaves_it_open() -> None:
    examples = Scenes().read("teacher", 0, 600)
    free = [
        scene[0].place
        for scene, text in zip(items(examples), examples.texts, strict=True)
        if len(scene) == 2 and not parse(text).order
    ]
    assert {LEFT, RIGHT} == set(free)
    assert 0.35 < sum(place == LEFT for place in free) / len(free) < 0.65


def test_pictures_are_ink_in_colour_on_the_ground() -> None:
    scenes = [(Item(3, 2, LEFT), Item(9, 0, RIGHT)), (Item(7, 3, MIDDLE),)]
    pair, single = compose(scenes, uniforms("test", 0, 0, 2), handwriting("reader")).float()
    ground = torch.tensor(GROUND).view(3, 1, 1)
    for picture, colour in ((pair[:, :, :8], 2), (pair[:, :, 8:], 0), (single, 3)):
        ink = picture - ground
        paint = (torch.tensor(INKS[colour]) - torch.tensor(GROUND)).view(3, 1, 1).float()
        share = (ink * paint).sum(0) / paint.square().sum()
        assert share.max() == pytest.approx(1, abs=0.01)
        assert (ink - share * paint).abs().max() < 1.5
    assert (single[:, :, :3] == ground).all()
    assert (single[:, :, 13:] == ground).all()


def test_a_scene_is_a_function_of_seed_split_and_position() -> None:
    whole, part = Scenes().read("teacher", 1000, 60), Scenes().read("teacher", 1020, 9)
    assert whole.texts[20:29] == part.texts
    assert torch.equal(whole.images[20:29], part.images)
    assert whole.texts != Scenes(seed=1).read("teacher", 1000, 60).texts
    assert not torch.equal(
        Scenes().read("reference", 0, 9).images, Scenes(seed=1).read("reference", 0, 9).images
    )


def test_an_unknown_part_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="teacher, reader, reference, floor"):
        Scenes().load("train")
    check_options(Scenes())


def test_the_plan_survives_being_written() -> None:
    plan = Scenes().evaluation()
    assert plan == EvaluationPlan(**plan.as_dict())
    assert ("-overall", "reference", "floor") == (plan.best, plan.split, plan.floor_split)


def test_the_conditions_of_examples_are_captions_where_there_are_any() -> None:
    examples = Scenes().read("teacher", 0, 3)
    assert list(examples.texts) == examples.conditions()
    bare = Examples(images=examples.images, labels=examples.labels, classes=TAGS)
    assert examples.labels.tolist() == bare.conditions()
    with pytest.raises(ValueError, match="2 texts for 3 images"):
        Examples(images=examples.images, labels=examples.labels, classes=TAGS, texts=("a", "b"))


class Listening(Teacher):
    """Hears captions, and takes the place of each for all of its tokens."""

    heard: ClassVar[list[Any]] = []
    conditioning = Conditioning(kind="text")

    def encode_conditions(self, raw: Sequence[Any]) -> Tensor:
        self.heard[:] = raw
        return torch.arange(len(raw))

    def encode(self, images: Tensor, c: Tensor) -> Tensor:
        return c[:, None].expand(-1, 4)


Listening.__abstractmethods__ = frozenset()


def test_a_teacher_is_pretrained_on_captions() -> None:
    examples, teacher = Scenes().read("teacher", 0, 10), Listening()
    feed = TokenFeed(teacher, Scenes(), examples, seed=0, device=torch.device("cpu"))
    assert list(examples.texts) == teacher.heard
    batch = feed.read(0, 10)
    assert torch.equal(batch.conditions, batch.tokens[:, 0])
