"""The reader: a small classifier of handwritten digits, and the features in which samples are compared."""

import functools
import hashlib
from importlib.resources import files
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from safetensors.torch import load
from torch import Tensor, nn

from dimo_core.errors import UsageError
from dimo_core.metric import FeatureExtractor

SIZE = 8
"""Height and width of what the reader reads."""

PREPROCESSING = "gray / 127.5 - 1"
"""What ``prepare`` does, as part of the fingerprint."""


def prepare(images: UInt8[Tensor, "N C H W"]) -> Float[Tensor, "N 1 8 8"]:
    """Bytes to [-1, 1].

    Raises:
        UsageError: for images that are not 8x8 with one channel.
    """
    if images.shape[1:] != (1, SIZE, SIZE):
        raise UsageError(
            f"the digit reader reads images [N, 1, {SIZE}, {SIZE}], got {list(images.shape)}."
            " Choose another feature extractor and other metrics for these images."
        )
    return images.float() / 127.5 - 1


class ReaderNetwork(nn.Module):
    """Three 3x3 convolutions, 32 linear features, ten digits: 38,000 parameters.

    The features are taken before their nonlinearity, where they are closest to Gaussian, and brought to
    mean 0 and variance 1 over the reader's own scans by the stored ``mean`` and ``std``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, width: int = 24, features: int = 32, dropout: float = 0.3) -> None:
        """Untrained.

        Args:
            width: Channels of the first convolution; the others have twice as many.
            features: Number of features F.
            dropout: Share of the inputs of the features that training drops.
        """
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.middle = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.top = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.features = nn.Linear(2 * width * (SIZE // 4) ** 2, features)
        self.head = nn.Linear(features, 10)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def forward(self, x: Float[Tensor, "N 1 8 8"]) -> tuple[Float[Tensor, "N F"], Float[Tensor, "N 10"]]:
        """Normalised features and logits of prepared images."""
        h = F.gelu(self.stem(x))
        h = F.max_pool2d(F.gelu(self.middle(h)), 2)
        h = F.max_pool2d(F.gelu(self.top(h)), 2)
        h = self.features(self.dropout(h.flatten(1)))
        return (h - self.mean) / self.std, self.head(F.gelu(h))


@functools.cache
def _weights() -> bytes:
    return files("dimo_digits").joinpath("reader.safetensors").read_bytes()


@functools.cache
def shipped_reader() -> ReaderNetwork:
    """The network with the shipped weights, in eval mode; one object for all who ask."""
    network = ReaderNetwork()
    network.load_state_dict(load(_weights()))
    return network.eval().requires_grad_(False)


@attrs.frozen(kw_only=True)
class DigitReader(FeatureExtractor):
    """The shipped reader of handwritten digits: 32 features of unit variance, logits of ten digits."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights and of how images are prepared."""
        return hashlib.sha256(_weights() + PREPROCESSING.encode()).hexdigest()

    def extract(
        self, images: UInt8[Tensor, "N C H W"]
    ) -> tuple[Float[Tensor, "N F"], Float[Tensor, "N K"] | None]:
        """Features [N, 32] and logits [N, 10] of images [N, 1, 8, 8].

        Raises:
            UsageError: for images of another shape.
        """
        result: Any = shipped_reader()(prepare(images.cpu()))
        return result[0], result[1]
