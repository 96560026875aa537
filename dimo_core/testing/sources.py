"""Sources: conditions, and training data."""

import json

import torch

from dimo_core.conditions import Conditioning
from dimo_core.draws import Draws
from dimo_core.examples import Examples
from dimo_core.options import plain
from dimo_core.registry import Registry
from dimo_core.sources import Conditions, Data
from dimo_core.streams import PictureStream
from dimo_core.teacher import Teacher
from dimo_core.testing.expectations import explains, require, require_close, require_refusal
from dimo_core.testing.options import check_options
from dimo_core.testing.suggested import require_plan


@explains
def check_conditions(source: Conditions, teacher: Teacher) -> None:
    """A pure function of position and seed, for conditions that the teacher takes.

    Args:
        source: The source.
        teacher: One that takes its conditions.
    """
    check_options(source)
    name = type(source).__qualname__
    stream = source.open(teacher.conditioning, seed=3)
    whole = stream.read(0, 40)
    require(len(whole) == 40, f"{name}.read gives as many conditions as asked for: 40, not {len(whole)}")
    part = stream.read(17, 9)
    require(part == whole[17:26], f"{name}.read depends on the position alone, not on earlier reads")
    again = source.open(teacher.conditioning, seed=3)
    require(again.read(0, 40) == whole, f"{name} opened again with the same seed gives the same conditions")
    far = again.read(10**7, 5)
    require(len(far) == 5, f"{name} is endless: position 10,000,000 can be read")
    teacher.encode_conditions([*whole, *far])
    for count in (1, 7):
        even = source.balanced(teacher.conditioning, count)
        require(len(even) == count, f"{name}.balanced gives {count} conditions, not {len(even)}")
        require(even == source.balanced(teacher.conditioning, count), f"{name}.balanced is a fixed list")
        teacher.encode_conditions(even)
        text = [teacher.describe(condition) for condition in even]
        read = source.parse(teacher.conditioning, text)
        require(read == even, f"{name}.parse reads {text!r} as {even!r}, not {read!r}")
    if any(condition != whole[0] for condition in whole):
        others = [source.open(teacher.conditioning, seed=seed).read(0, 40) for seed in (4, 5, 6)]
        told = f"{name} opened with another seed gives its conditions in another order"
        require(any(other != whole for other in others), told)
        told = f"{name}.balanced gives different conditions in turn, as there are some"
        require(any(condition != even[0] for condition in even), told)
    foreign, what = Conditioning(kind="a kind that nobody has"), "conditions of a kind that it does not give"
    require_refusal(lambda: source.open(foreign, seed=0), f"{name}.open refuses {what}")


@explains
def check_data(data: Data) -> None:
    """The same examples at every call, each with a condition, and honest names of splits.

    Args:
        data: Small ones: every split is read.
    """
    check_options(data)
    name, splits = type(data).__qualname__, data.splits()
    require(len(splits) > 0, f"{name}.splits names a part at least")
    require_refusal(lambda: data.load("no such split"), f"{name}.load refuses an unknown split")
    for split in splits:
        if data.streams:
            _check_stream(data, split)
            continue
        first, second = data.load(split), data.load(split)
        require(len(first) > 0, f"{name}.load({split!r}) gives examples")
        require(len(first.conditions()) == len(first), f"each example of {split!r} has a condition")
        same = list(map(repr, first.conditions())) == list(map(repr, second.conditions()))
        require(same, f"{name}.load gives the same conditions at every call")
        require(_what(first) == _what(second), f"{name}.load gives the same examples at every call")
        if data.augments and first.images is not None:
            _check_augment(data, first.images[:4] / 255)
    told = f"{name}.identity is plain data, and the same at every call"
    require(json.dumps(plain(data.identity())) == json.dumps(plain(data.identity())), told)
    if (plan := data.evaluation()) is not None:
        require_plan(plan, Registry.discover())


def _what(examples: Examples) -> object:
    """What is compared of examples."""
    tensors = examples.images if examples.images is not None else examples.tokens
    return examples.lines if tensors is None else tensors.tolist()


def _check_stream(data: Data, split: str) -> None:
    stream = data.open(split)
    require(len(stream.shards) > 0, f"the stream of {split!r} has shards")
    shard, kind = stream.shards[0], type(stream).__qualname__
    if isinstance(stream, PictureStream):
        read = [[(p.key, p.label, p.error) for p in stream.read(shard)] for _ in range(2)]
        require(read[0] == read[1], f"{kind}.read gives the pictures of a shard in a fixed order")
    else:
        texts = [stream.read(shard).lines for _ in range(2)]
        require(texts[0] == texts[1], f"{kind}.read gives the documents of a shard in a fixed order")
    again = data.open(split)
    require([*again.shards] == [*stream.shards], f"{kind}.shards has the same order at every opening")


def _check_augment(data: Data, images: torch.Tensor) -> None:
    draws = Draws(seed=0, phase="augment", total=len(images))
    changed = data.augment(images, draws)
    require(changed.shape == images.shape, "augment keeps the shape of images")
    require(bool(((changed >= 0) & (changed <= 1)).all()), "augment gives images within [0, 1]")
    alone = data.augment(images[1:2], draws.slice(1, 1))
    require_close(alone, changed[1:2], "each image is augmented by its own row of draws", 1e-5)
