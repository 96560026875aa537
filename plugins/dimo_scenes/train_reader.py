"""Train the reader of scenes.

::

    python -m dimo_scenes.train_reader [FILE]

One core, about three minutes, always the same weights on the same machine and torch. The reader sees scenes of
the ``reader`` part of the handwriting only; a sixth of that part is kept back, and sets the threshold. Prints
what ``READER.md`` quotes.
"""

import sys
from pathlib import Path
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from attrs import validators as v
from jaxtyping import Bool, Float
from safetensors.torch import save_file
from torch import Tensor

from dimo_scenes.composing import Handwriting, handwriting
from dimo_scenes.data import Scenes
from dimo_scenes.reader import NOTHING, ReaderNetwork, windows
from dimo_scenes.training_scenes import lesson


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

    seed: int = 0
    steps: int = attrs.field(default=2500, validator=v.gt(0))
    batch_size: int = attrs.field(default=48, validator=v.gt(0))
    learning_rate: float = attrs.field(default=3e-3, validator=v.gt(0))
    weight_decay: float = attrs.field(default=0.02, validator=v.ge(0))
    label_smoothing: float = attrs.field(default=0.02, validator=v.ge(0))


def train(options: Training, scans: Handwriting) -> ReaderNetwork:
    """A trained network; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = ReaderNetwork()
        optimiser = torch.optim.AdamW(
            network.parameters(), options.learning_rate, weight_decay=options.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.learning_rate, options.steps)
        for _ in range(options.steps):
            given = lesson(scans, options.batch_size)
            _, shape, colour = network(windows(given.images))
            shapes, colours = given.shapes.flatten(), given.colours.flatten()
            loss = F.cross_entropy(shape, shapes, label_smoothing=options.label_smoothing)
            digit = shapes < NOTHING
            loss = loss + 0.3 * F.cross_entropy(colour[digit], colours[digit])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
    return network.eval().requires_grad_(False)
