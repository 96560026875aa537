"""The reader of scenes and the compositional metric."""

import functools
import re
from importlib.resources import files
from typing import Any

import pytest
import torch
from torch import Tensor

from dimo_core.conditions import Conditioning
from dimo_core.errors import UsageError
from dimo_core.evaluation.judge import Judge
from dimo_core.metric import Samples
from dimo_core.registry import Registry
from dimo_core.teacher import Teacher
from dimo_core.testing import check_options
from dimo_scenes.captions import TAGS, Caption, parse
from dimo_scenes.composing import compose, handwriting
from dimo_scenes.data import SPLITS, Scenes
from dimo_scenes.drawing import LEFT, MIDDLE, RIGHT, Item, uniforms
from dimo_scenes.metric import Composition, shows
from dimo_scenes.reader import (
    NOTHING,
    UNREADABLE,
    ReaderNetwork,
    SceneReader,
    prepare,
    read,
    shipped_reader,
    windows,
)
from dimo_scenes.train_reader import Training, divided, fooled, scores, train
from dimo_scenes.training_scenes import lesson


class Silent(Teacher):
    """The metric asks nothing of a teacher."""

    conditioning = Conditioning(kind="text")  # type: ignore[assignment]


Silent.__abstractmethods__ = frozenset()


def judged(images: Tensor, texts: tuple[str, ...]) -> dict[str, float]:
    return dict(Composition().compute(Samples(conditions=texts, images=images), None, Silent()))


@functools.cache
def real(split: str = "reference") -> tuple[Tensor, tuple[str, ...]]:
    examples = Scenes().read(split, 0, 1000)
    return examples.images, examples.texts


def test_real_scenes_that_nobody_saw_score_near_one_in_every_tag() -> None:
    numbers = judged(*real())
    assert numbers["overall"] >= 0.965
    assert all(numbers[tag] >= 0.94 for tag in TAGS)
    assert numbers["overall"] == pytest.approx(sum(numbers[tag] for tag in TAGS) / 5)


def test_the_readers_scores_differ_little_between_parts_it_never_saw() -> None:
    assert abs(judged(*real("floor"))["overall"] - judged(*real("reference"))["overall"]) < 0.03


def test_noise_and_blank_pictures_score_nothing() -> None:
    images, texts = real()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(256, images.shape, generator=generator).to(torch.uint8)
    coarse = torch.rand(1000, 3, 4, 4, generator=generator).repeat_interleave(4, 2).repeat_interleave(4, 3)
    blank = images[:, :, :1, :1].expand_as(images).contiguous()
    for pictures in (noise, (coarse * 255).to(torch.uint8), blank, torch.zeros_like(images)):
        numbers = judged(pictures, texts)
        assert (0, 0) == (numbers["overall"], numbers["readable"])


def test_two_digits_on_top_of_each_other_are_rarely_readable_and_hardly_ever_right() -> None:
    images, texts = real()
    numbers = judged(torch.maximum(images, images.roll(5, 0)), texts)
    assert numbers["overall"] < 0.1
    assert numbers["readable"] < 0.2


def test_halves_of_two_scenes_are_hardly_ever_right() -> None:
    images, texts = real()
    halves = torch.cat([images[:, :, :8], images.roll(5, 0)[:, :, 8:]], 2)
    assert judged(halves, texts)["overall"] < 0.25


def test_pictures_of_other_prompts_are_wrong() -> None:
    images, texts = real()
    assert judged(images.roll(1, 0), texts)["overall"] < 0.02


def test_the_wrong_colour_is_wrong_where_a_colour_is_stated() -> None:
    images, texts = real()
    recoloured = images.roll(1, 1)  # red, green and blue change places
    white = [i for i, text in enumerate(texts) if "white" not in text]
    numbers = judged(recoloured[white], tuple(texts[i] for i in white))
    assert numbers["colors"] < 0.02
    assert numbers["color_attr"] < 0.02


def test_the_wrong_order_is_wrong_where_an_order_is_stated_and_only_there() -> None:
    images, texts = real()
    pairs = [i for i, text in enumerate(texts) if len(parse(text).digits) == 2]
    swapped = torch.cat([images[..., 8:], images[..., :8]], 3)
    numbers = judged(swapped[pairs], tuple(texts[i] for i in pairs))
    assert numbers["position"] < 0.02
    assert numbers["two_object"] > 0.94
    assert numbers["color_attr"] > 0.94


def test_a_second_digit_or_a_missing_one_is_wrong() -> None:
    images, texts = real()
    both = [i for i, text in enumerate(texts) if len(parse(text).digits) == 2]
    named = tuple(f"a {word}".replace("a eight", "an eight") for word in ("seven", "eight") for _ in both)
    assert judged(images[both].repeat(2, 1, 1, 1), named)["overall"] == 0
    half = images[both].clone()
    half[..., 8:] = half[:, :, :1, :1]
    numbers = judged(half, tuple(texts[i] for i in both))
    assert numbers["overall"] == 0
    assert numbers["readable"] > 0.8


@pytest.mark.parametrize(
    ("text", "items", "right"),
    [
        ("a seven", [Item(7, 3, MIDDLE)], True),
        ("a seven", [Item(7, 3, LEFT)], True),
        ("a seven", [Item(1, 3, MIDDLE)], False),
        ("a seven", [], False),
        ("a seven", [Item(7, 3, LEFT), Item(1, 3, RIGHT)], False),
        ("a red seven", [Item(7, 0, MIDDLE)], True),
        ("a red seven", [Item(7, 1, MIDDLE)], False),
        ("a three and a nine", [Item(9, 0, LEFT), Item(3, 0, RIGHT)], True),
        ("a three and a nine", [Item(3, 0, LEFT)], False),
        ("a three and a nine", [Item(3, 0, LEFT), Item(3, 1, RIGHT)], False),
        ("a blue three and a green nine", [Item(9, 1, LEFT), Item(3, 2, RIGHT)], True),
        ("a blue three and a green nine", [Item(9, 2, LEFT), Item(3, 1, RIGHT)], False),
        ("a three left of a nine", [Item(3, 0, LEFT), Item(9, 1, RIGHT)], True),
        ("a three left of a nine", [Item(9, 1, LEFT), Item(3, 0, RIGHT)], False),
        ("a three right of a nine", [Item(9, 1, LEFT), Item(3, 0, RIGHT)], True),
        ("a three right of a nine", [Item(3, 1, LEFT), Item(9, 0, RIGHT)], False),
        ("a three in red left of a nine in blue", [Item(3, 2, LEFT), Item(9, 0, RIGHT)], False),
    ],
)
def test_a_picture_is_right_when_it_shows_all_that_is_said_and_nothing_else(
    text: str, items: list[Item], right: bool
) -> None:
    assert right == shows(items, parse(text))


def test_the_reader_finds_digits_colours_and_places() -> None:
    scenes = [(Item(0, 2, LEFT), Item(6, 0, RIGHT)), (Item(0, 5, MIDDLE),), (Item(6, 4, LEFT),)] * 40
    images = compose(scenes, uniforms("test", 1, 0, len(scenes)), handwriting("reference"))
    found = read(shipped_reader(), images).items()
    assert sum(a == b for a, b in zip(scenes, found, strict=True)) >= 0.95 * len(scenes)


def test_features_have_mean_0_and_variance_1_on_scenes_of_the_readers_handwriting() -> None:
    features, logits = SceneReader().extract(Scenes(held_out=3000).load("reader").images)
    assert logits is None
    assert (3000, 72) == tuple(features.shape)
    torch.testing.assert_close(torch.zeros(72), features.mean(0), atol=0.15, rtol=0)
    torch.testing.assert_close(torch.ones(72), features.std(0), atol=0.15, rtol=0)
    alone, _ = SceneReader().extract(Scenes(held_out=3).load("reader").images)
    torch.testing.assert_close(alone, features[:3], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (2, 3, 32, 32)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"\[N, 3, 16, 16\]"):
        SceneReader().extract(torch.zeros(shape, dtype=torch.uint8))
    with pytest.raises(UsageError, match=r"\[N, 3, 16, 16\]"):
        judged(torch.zeros(shape, dtype=torch.uint8), ("a seven", "a one"))


@pytest.mark.parametrize(
    ("condition", "message"), [(3, "condition 3"), ("a cat", "no caption"), (("a seven",), "condition")]
)
def test_conditions_that_are_no_captions_are_refused(condition: Any, message: str) -> None:
    samples = Samples(conditions=(condition,), images=torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(UsageError, match=message):
        Composition().compute(samples, None, Silent())


def test_samples_that_are_no_images_are_refused() -> None:
    with pytest.raises(UsageError, match="tokens"):
        Composition().compute(Samples(conditions=("a seven",)), None, Silent())
    check_options(Composition())
    check_options(SceneReader())


@pytest.mark.slow
def test_the_plan_of_the_data_is_carried_out_and_the_floor_is_close_to_the_reference() -> None:
    plan = Scenes().evaluation()
    judge = Judge.resolve(Silent(), plan, Registry.discover({}), batch_size=500)
    assert judge.floor is not None
    numbers = judge(judge.floor)
    assert [] == judge.notes
    assert set(plan.shown) <= set(numbers)
    assert numbers["overall"] == -judge.score(numbers) >= 0.96
    mixed = judge(Samples(conditions=judge.floor.conditions[:1000], images=torch.maximum(*halved(judge))))
    assert mixed["fid"] > 10 * numbers["fid"]


def halved(judge: Judge) -> tuple[Tensor, Tensor]:
    """The two halves of the floor's pictures."""
    assert judge.floor is not None
    assert judge.floor.images is not None
    first, second = judge.floor.images.split(1000)
    return first, second


def test_windows_show_each_place_with_a_margin() -> None:
    x = torch.arange(16.0).expand(1, 3, 16, 16)
    left, middle, right = windows(x)[:, 0, 0]
    assert [0, 0, *range(10)] == left.tolist()
    assert [*range(2, 14)] == middle.tolist()
    assert [*range(6, 16), 15, 15] == right.tolist()


def test_lessons_say_what_is_in_each_window() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        given = lesson(handwriting("reader"), 400)
    assert {NOTHING, UNREADABLE, *range(10)} == set(given.shapes.flatten().tolist())
    assert -1 <= given.images.min() < given.images.max() <= 1
    blank = (given.shapes == NOTHING).all(1)
    assert given.images[blank].amax() < -0.2
    pair = ((given.shapes < NOTHING) == torch.tensor([True, False, True])).all(1)
    assert 0.2 < pair.float().mean() < 0.6


def test_what_sets_the_threshold_is_not_learnt_from() -> None:
    scans = handwriting("reader")
    taught, kept_back = divided(scans)
    assert len(scans.images) == len(taught.images) + len(kept_back.images)
    seen, unseen = (set(map(bytes, part.images.flatten(1).numpy())) for part in (taught, kept_back))
    assert set() == seen & unseen
    assert 10 == len(kept_back.counts[kept_back.counts > 3])
    digits = torch.arange(10).repeat(20)
    chosen = kept_back.choose(digits, torch.rand(200, generator=torch.Generator().manual_seed(0)))
    original = {
        bytes(image.flatten().numpy()): digit
        for digit, images in enumerate(scans.images.split(scans.counts.tolist()))
        for image in images
    }
    assert digits.tolist() == [original[bytes(image.flatten().numpy())] for image in chosen]


def test_training_repeats_exactly_and_leaves_the_global_random_state_alone() -> None:
    state = torch.random.get_rng_state()
    first, second = (train(Training(steps=3, batch_size=8), handwriting("reader")) for _ in range(2))
    assert torch.equal(state, torch.random.get_rng_state())
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    other = train(Training(steps=3, batch_size=8, seed=1), handwriting("reader"))
    assert not torch.equal(first.stem.weight, other.stem.weight)


@pytest.mark.slow
def test_the_card_quotes_the_scores_of_the_shipped_weights() -> None:
    card = files("dimo_scenes").joinpath("READER.md").read_text()
    for split in SPLITS:
        row = re.search(rf"^\| `{split}` .*$", card, re.MULTILINE)
        assert row is not None, split
        quoted = [float(x) for x in re.findall(r"\d\.\d+", row.group())]
        assert quoted == pytest.approx(list(scores(shipped_reader(), split).values()), abs=2e-3)
    for name, share in fooled(shipped_reader()).items():
        row = re.search(rf"^\| {name}.*\| (\d\.\d+) \|$", card, re.MULTILINE)
        assert row is not None, name
        assert float(row.group(1)) == pytest.approx(share, abs=3e-3)
    assert SceneReader().fingerprint in card
    assert f"{float(shipped_reader().threshold):.3f}" in card


def test_the_network_is_small_and_its_file_too() -> None:
    assert sum(p.numel() for p in ReaderNetwork().parameters()) < 60_000
    assert len(files("dimo_scenes").joinpath("reader.safetensors").read_bytes()) < 1e6


def test_prepared_pictures_lie_between_minus_one_and_one() -> None:
    x = prepare(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 16, 16))
    assert (-1, 1) == (float(x.min()), float(x.max()))


@pytest.mark.slow
def test_the_documented_command_makes_a_reader_as_good_as_the_shipped_one() -> None:
    network = train(Training(), divided(handwriting("reader"))[0])
    assert scores(network, "reference")["right"] > 0.93


def test_captions_with_colours_and_order_are_judged_by_both() -> None:
    caption = Caption(digits=(3, 9), colours=(2, 1), relation=4)
    assert shows([Item(3, 2, LEFT), Item(9, 1, RIGHT)], caption)
    assert not shows([Item(9, 1, LEFT), Item(3, 2, RIGHT)], caption)
