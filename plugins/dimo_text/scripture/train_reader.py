"""Train the reader.

::

    python -m dimo_text.scripture.train_reader [FILE]

One core, some minutes, always the same weights on the same machine and torch. The reader sees the ``reader``
part of the text only. Prints what ``READER.md`` quotes.
"""

import sys
from pathlib import Path

import attrs
import torch
import torch.nn.functional as F
from attrs import validators as v
from jaxtyping import Int
from safetensors.torch import save_file
from torch import Tensor

from dimo_text.scripture.data import SPLITS, Scripture
from dimo_text.scripture.pieces import encoded
from dimo_text.scripture.reader import CONTEXT, ReaderNetwork


@attrs.frozen(kw_only=True)
class Training:
    """How the reader is trained.

    Attributes:
        seed: Seed of weights, batches and dropout.
        steps: Steps of AdamW with a one-cycle learning rate.
        batch_size: Windows a step.
        learning_rate: Its highest value.
        weight_decay: Decoupled weight decay.
        kinds: Weight of the loss of the kind, beside that of the next token.
    """

    seed: int = attrs.field(default=0, validator=v.ge(0))
    steps: int = attrs.field(default=1200, validator=v.gt(0))
    batch_size: int = attrs.field(default=32, validator=v.gt(0))
    learning_rate: float = attrs.field(default=3e-3, validator=v.gt(0))
    weight_decay: float = attrs.field(default=0.1, validator=v.ge(0))
    kinds: float = attrs.field(default=0.1, validator=v.ge(0))


def windows(split: str) -> tuple[Int[Tensor, "N S"], Int[Tensor, " N"]]:
    """Half-overlapping windows of the chapters of each kind, one after another; and their kinds."""
    examples = Scripture().load(split)
    rows: list[Tensor] = []
    kinds: list[int] = []
    for kind in range(len(examples.classes)):
        texts = [text for text, own in zip(examples.lines or (), examples.labels, strict=True) if own == kind]
        stream = torch.tensor([number for text in texts for number in (*encoded(text), 0)])
        rows.append(stream.unfold(0, CONTEXT, CONTEXT // 2))
        kinds += [kind] * len(rows[-1])
    return torch.cat(rows), torch.tensor(kinds)


def train(options: Training) -> ReaderNetwork:
    """A trained reader; the global random state is left as it was."""
    texts, kinds = windows("reader")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = ReaderNetwork()
        optimiser = torch.optim.AdamW(
            network.parameters(), options.learning_rate, weight_decay=options.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, options.learning_rate, options.steps, pct_start=0.1
        )
        for _ in range(options.steps):
            rows = torch.randint(len(texts), (options.batch_size,))
            nll, _, logits = network(texts[rows])
            loss = nll.mean() + options.kinds * F.cross_entropy(logits, kinds[rows])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
    network.eval().requires_grad_(False)
    features = torch.cat([network(batch)[1] for batch in texts.split(250)])
    network.mean.copy_(features.mean(0))
    network.std.copy_(features.std(0))
    return network


def scores(network: ReaderNetwork) -> dict[str, dict[str, float]]:
    """Perplexity of the tokens, and share of windows whose kind is told right, of each part of the text."""
    table = {}
    for split in SPLITS:
        texts, kinds = windows(split)
        read = [network(batch)[::2] for batch in texts.split(250)]
        nll, logits = (torch.cat(part) for part in zip(*read, strict=True))
        right = (logits.argmax(1) == kinds).double().mean()
        table[split] = {"perplexity": nll.double().mean().exp().item(), "kind": right.item()}
    return table


def main(path: Path) -> None:
    """Train, write the weights to ``path``, and print the scores."""
    torch.set_num_threads(1)
    options = Training()
    network = train(options)
    # One entry of metadata only: safetensors writes several in arbitrary order.
    save_file(
        network.state_dict(), path, {"made_by": f"python -m dimo_text.scripture.train_reader: {options}"}
    )
    sys.stdout.write(f"{path}: {sum(p.numel() for p in network.parameters())} parameters\n")
    for split, numbers in scores(network).items():
        sys.stdout.write(f"{split:>10}  " + "  ".join(f"{k} {x:.4f}" for k, x in numbers.items()) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).with_name("reader.safetensors"))
