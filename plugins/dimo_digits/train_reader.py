"""Train the reader.

::

    python -m dimo_digits.train_reader [FILE]

One core, about half a minute, always the same weights on the same machine and torch. The reader sees the
``reader`` part of the scans only, moved and distorted a little each time. Prints what ``READER.md`` quotes.
"""

import sys
from pathlib import Path

import attrs
import torch
import torch.nn.functional as F
from attrs import validators as v
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from dimo_digits.data import SPLITS, Digits
from dimo_digits.metric import READABLE
from dimo_digits.reader import ReaderNetwork, prepare


@attrs.frozen(kw_only=True)
class Training:
    """How the reader is trained.

    Attributes:
        seed: Seed of weights, batches and distortions.
        steps: Steps of AdamW with a one-cycle learning rate.
        batch_size: Scans a step.
        learning_rate: Its highest value.
        weight_decay: Decoupled weight decay.
        label_smoothing: Share of the target that is spread over all digits.
    """

    seed: int = attrs.field(default=0, validator=v.ge(0))
    steps: int = attrs.field(default=4000, validator=v.gt(0))
    batch_size: int = attrs.field(default=64, validator=v.gt(0))
    learning_rate: float = attrs.field(default=2e-3, validator=v.gt(0))
    weight_decay: float = attrs.field(default=0.02, validator=v.ge(0))
    label_smoothing: float = attrs.field(default=0.02, validator=v.ge(0))


def distort(x: Float[Tensor, "B 1 8 8"]) -> Float[Tensor, "B 1 8 8"]:
    """Random small rotation, scale, shear, shift below a pixel, ink and noise of prepared images."""

    def around_zero(width: float, *shape: int) -> Tensor:
        return (torch.rand(len(x), *shape) * 2 - 1) * width

    angle, shear, scale = around_zero(0.2), around_zero(0.15), 1 + around_zero(0.12, 2)
    matrix = torch.stack(
        [
            torch.stack([angle.cos() * scale[:, 0], shear - angle.sin()], 1),
            torch.stack([angle.sin(), angle.cos() * scale[:, 1]], 1),
        ],
        1,
    )
    # grid_sample counts in half-widths of the image and pads with 0, which is to be paper, not gray.
    shift = around_zero(0.15, 2, 1)
    grid = F.affine_grid(torch.cat([matrix, shift], 2), list(x.shape), align_corners=False)
    ink = F.grid_sample(x + 1, grid, align_corners=False) * (1 + around_zero(0.15, 1, 1, 1))
    return (ink - 1 + 0.08 * torch.randn_like(ink)).clamp(-1, 1)


def train(options: Training) -> ReaderNetwork:
    """A trained reader; the global random state is left as it was."""
    examples = Digits(classes="digit").load("reader")
    images, digits = prepare(examples.pictures), examples.labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = ReaderNetwork()
        optimiser = torch.optim.AdamW(
            network.parameters(), options.learning_rate, weight_decay=options.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.learning_rate, options.steps)
        for _ in range(options.steps):
            rows = torch.randint(len(images), (options.batch_size,))
            _, logits = network(distort(images[rows]))
            loss = F.cross_entropy(logits, digits[rows], label_smoothing=options.label_smoothing)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
    network.eval().requires_grad_(False)
    features, _ = network(images)
    network.mean.copy_(features.mean(0))
    network.std.copy_(features.std(0))
    return network


def scores(network: ReaderNetwork, threshold: float) -> dict[str, dict[str, float]]:
    """Accuracy, readable share and mean loss (nats) of each part of the scans."""
    table = {}
    for split in SPLITS:
        examples = Digits(classes="digit").load(split)
        _, logits = network(prepare(examples.pictures))
        best = logits.softmax(1).max(1)
        table[split] = {
            "accuracy": (best.indices == examples.labels).double().mean().item(),
            "readable": (best.values >= threshold).double().mean().item(),
            "loss": F.cross_entropy(logits, examples.labels).item(),
        }
    return table


def main(path: Path) -> None:
    """Train, write the weights to ``path``, and print the scores."""
    torch.set_num_threads(1)
    options = Training()
    network = train(options)
    # One entry of metadata only: safetensors writes several in arbitrary order.
    save_file(network.state_dict(), path, {"made_by": f"python -m dimo_digits.train_reader: {options}"})
    sys.stdout.write(f"{path}: {sum(p.numel() for p in network.parameters())} parameters\n")
    for split, numbers in scores(network, READABLE).items():
        sys.stdout.write(f"{split:>10}  " + "  ".join(f"{k} {x:.4f}" for k, x in numbers.items()) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).with_name("reader.safetensors"))
