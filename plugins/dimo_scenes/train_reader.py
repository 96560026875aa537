"""Train the reader of scenes.

::

    python -m dimo_scenes.train_reader [FILE]

One core, about three minutes, always the same weights on the same machine and torch. The reader sees the
``reader`` part of the handwriting only; a sixth of that is kept back, and sets the threshold. Prints what
``READER.md`` quotes.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

import attrs
import torch
import torch.nn.functional as F
from attrs import validators as v
from jaxtyping import UInt8
from safetensors.torch import save_file
from torch import Tensor

from dimo_scenes.captions import TAGS, parse
from dimo_scenes.combinations import Choices
from dimo_scenes.composing import Handwriting, compose, handwriting
from dimo_scenes.data import Scenes
from dimo_scenes.drawing import Item, draw_caption, draw_items, uniforms
from dimo_scenes.metric import by_tag
from dimo_scenes.reader import NOTHING, ReaderNetwork, prepare, read, windows
from dimo_scenes.training_scenes import lesson

EMPTY = 0.3
"""Share of the windows without a digit that are looked at: they are many, and easy."""

LOST = 0.01
"""Share of rightly read scenes that the threshold refuses."""

CALIBRATION = 3000
"""Scenes that set the threshold and normalise the features."""


@attrs.frozen(kw_only=True)
class Training:
    """How the reader is trained.

    Attributes:
        seed: Seed of weights and pictures.
        steps: Steps of AdamW with a one-cycle learning rate.
        batch_size: Pictures a step, each with three windows.
        learning_rate: Its highest value.
        weight_decay: Decoupled weight decay.
        label_smoothing: Share of the target that is spread over all answers.
    """

    seed: int = attrs.field(default=0, validator=v.ge(0))
    steps: int = attrs.field(default=5000, validator=v.gt(0))
    batch_size: int = attrs.field(default=48, validator=v.gt(0))
    learning_rate: float = attrs.field(default=3e-3, validator=v.gt(0))
    weight_decay: float = attrs.field(default=0.02, validator=v.ge(0))
    label_smoothing: float = attrs.field(default=0.02, validator=v.ge(0))


def train(options: Training, scans: Handwriting) -> ReaderNetwork:
    """A trained network; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = ReaderNetwork()
        laid_out(network, torch.channels_last)  # twice as fast on a CPU
        optimiser = torch.optim.AdamW(
            network.parameters(), options.learning_rate, weight_decay=options.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.learning_rate, options.steps)
        for _ in range(options.steps):
            given = lesson(scans, options.batch_size)
            shapes, colours = given.shapes.flatten(), given.colours.flatten()
            kept = (shapes != NOTHING) | (torch.rand(len(shapes)) < EMPTY)
            shapes, colours = shapes[kept], colours[kept]
            seen = windows(given.images)[kept].contiguous(memory_format=torch.channels_last)
            _, shape, colour = network(seen)
            loss = F.cross_entropy(shape, shapes, label_smoothing=options.label_smoothing)
            digit = shapes < NOTHING
            loss = loss + 0.3 * F.cross_entropy(colour[digit], colours[digit])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
    laid_out(network, torch.contiguous_format)
    return network.eval().requires_grad_(False)


def laid_out(network: ReaderNetwork, layout: torch.memory_format) -> None:
    """Change the order in which the weights of convolutions lie in memory."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)


def divided(scans: Handwriting) -> tuple[Handwriting, Handwriting]:
    """Five sixths to learn from, and a sixth that sets the threshold; of every digit."""
    digits = torch.arange(10).repeat_interleave(scans.counts)
    kept_back = torch.arange(len(digits)) % 6 == 0
    return tuple(  # type: ignore[return-value]
        Handwriting(scans.images[rows], digits[rows].bincount(minlength=10))
        for rows in (~kept_back, kept_back)
    )


def scenes_of(scans: Handwriting, count: int) -> tuple[UInt8[Tensor, "N 3 16 16"], list[tuple[Item, ...]]]:
    """Undistorted scenes of any combination, and what is in them."""
    numbers = uniforms("calibration", 0, 0, count)
    choices, rows = Choices(everything=True), numbers.tolist()
    items = [draw_items(draw_caption(u, choices), u, choices) for u in rows]
    return compose(items, numbers, scans), items


def calibrate(network: ReaderNetwork, kept_back: Handwriting, scans: Handwriting) -> None:
    """Set the threshold, from scans that were kept back, and the mean and variance of the features.

    The threshold is passed by all but ``LOST`` of the scenes that are read right.
    """
    images, items = scenes_of(kept_back, CALIBRATION)
    readings = read(network, images)
    right = torch.tensor([a == b for a, b in zip(readings.all_items(), map(in_order, items), strict=True)])
    network.threshold.fill_(round(float(readings.sure[right].quantile(LOST)), 3))
    images, _ = scenes_of(scans, CALIBRATION)
    features, _, _ = network(windows(prepare(images)))
    pictures = features.unflatten(0, (-1, 3)).flatten(1)
    network.mean.copy_(pictures.mean(0))
    network.std.copy_(pictures.std(0))


def scores(network: ReaderNetwork, split: str, count: int = 3000) -> dict[str, float]:
    """How scenes of a split are read: right, readable, the mean over tags, and each tag."""
    examples = Scenes().read(split, 0, count)
    readings = read(network, examples.pictures)
    captions = [parse(text) for text in examples.texts]
    shares = by_tag(readings.items(), captions)
    columns = zip(*(examples.details[name].tolist() for name in ("digits", "colours", "places")), strict=True)
    truth = [in_order(Item(*i) for i in zip(*scene, strict=True) if i[0] >= 0) for scene in columns]
    right = sum(a == b for a, b in zip(readings.items(), truth, strict=True)) / count
    return {"right": right, "readable": sum(readings.readable) / count, **shares}


def in_order(items: Iterable[Item]) -> tuple[Item, ...]:
    """From left to right."""
    return tuple(sorted(items, key=lambda item: item.place))


def main(path: Path) -> None:
    """Train, write the weights to ``path``, and print the scores."""
    torch.set_num_threads(1)
    options, scans = Training(), handwriting("reader")
    taught, kept_back = divided(scans)
    network = train(options, taught)
    calibrate(network, kept_back, scans)
    # One entry of metadata only: safetensors writes several in arbitrary order.
    save_file(network.state_dict(), path, {"made_by": f"python -m dimo_scenes.train_reader: {options}"})
    count = sum(p.numel() for p in network.parameters())
    sys.stdout.write(f"{path}: {count} parameters, threshold {float(network.threshold):.3f}\n")
    for split in Scenes().splits():
        numbers = scores(network, split)
        sys.stdout.write(f"{split:>10}  " + "  ".join(f"{k} {x:.4f}" for k, x in numbers.items()) + "\n")
    for name, share in fooled(network).items():
        sys.stdout.write(f"{name:>10}  readable {share:.4f}\n")


def fooled(network: ReaderNetwork, count: int = 1000) -> dict[str, float]:
    """Share of pictures that count as readable though they show no digit, or two on top of each other."""
    images = Scenes().read("reference", 0, count).pictures
    generator = torch.Generator().manual_seed(0)
    ground = images[:, :, :1, :1]
    other = images.roll(len(TAGS), 0)  # a scene of the same tag
    pictures = {
        "noise": torch.randint(256, images.shape, generator=generator).to(torch.uint8),
        "superposed": torch.maximum(images, other),
        "halves": torch.cat([images[:, :, :8], other[:, :, 8:]], 2),
        "blank": ground.expand_as(images).contiguous(),
    }
    found = {}
    for name, shown in pictures.items():
        items = read(network, shown).items()
        found[name] = sum(map(bool, items)) / count
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).with_name("reader.safetensors"))
