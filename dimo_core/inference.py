"""Using networks without training them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def inference(*networks: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients within; afterwards every submodule has the mode that it had.

    ``no_grad`` and not ``inference_mode``: whatever a network keeps from this call must still serve training.
    """
    modes = [(module, module.training) for network in networks for module in network.modules()]
    try:
        for network in networks:
            network.eval()
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
