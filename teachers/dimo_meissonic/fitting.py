"""What the fits of image tokenizer and text tower share: batches by step, and AdamW with a cosine rate."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from loguru import logger
from torch import Tensor, nn

from dimo_core.draws import permutation, stream_seed

WARMUP = 50
"""Steps in which the rate rises."""

LINES = 10
"""Lines of progress of a fit."""


class Batches:
    """Rows of the examples by step: epochs, each in an order of its own.

    Args:
        count: Examples.
        size: Rows of a batch.
        seed: Fixes the orders.
        name: Of the fit; others have other orders.
    """

    def __init__(self, count: int, size: int, *, seed: int, name: str) -> None:
        self.count, self.size, self.seed, self.name = count, min(size, count), seed, name
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def rows(self, step: int) -> Int[Tensor, " b"]:
        """The rows of a step; what is left at the end of an epoch, less than a batch, is not used."""
        epoch, place = divmod(step, self.count // self.size)
        if epoch != self._epoch:
            order = permutation(self.seed, epoch, self.count, self.name)
            self._epoch, self._order = epoch, torch.tensor(order)
        return self._order[place * self.size : (place + 1) * self.size]

    def generator(self, step: int) -> torch.Generator:
        """For what else is drawn in a step."""
        return torch.Generator().manual_seed(stream_seed(self.seed, self.name, step))


class Fit:
    """An optimiser and its progress.

    Args:
        model: What is fitted; set to training mode.
        steps: How many there will be.
        lr: Peak of the rate; it rises over the first steps and falls to 0 by a cosine.
        name: For the log.
    """

    def __init__(self, model: nn.Module, *, steps: int, lr: float, name: str) -> None:
        self.parameters = list(model.train().parameters())
        self.optimiser = torch.optim.AdamW(self.parameters, lr=lr, betas=(0.9, 0.98), weight_decay=1e-4)
        warmup = min(WARMUP, max(1, steps // 10))
        rise = torch.optim.lr_scheduler.LinearLR(self.optimiser, 1 / warmup, total_iters=warmup)
        fall = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimiser, max(1, steps - warmup))
        self.rate = torch.optim.lr_scheduler.SequentialLR(self.optimiser, [rise, fall], [warmup])
        self.step, self.steps, self.name = 0, steps, name

    def update(self, loss: Float[Tensor, ""], shown: Mapping[str, Tensor]) -> None:
        """One step down the gradient.

        Args:
            loss: What to lower.
            shown: Numbers for the log.
        """
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.rate.step()
        self.step += 1
        if self.step % max(1, self.steps // LINES) == 0:
            numbers = ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in shown.items())
            logger.info("{}: step {} of {}, {}", self.name, self.step, self.steps, numbers)
