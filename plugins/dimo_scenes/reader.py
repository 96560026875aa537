"""The reader: what digits a picture shows, in which colours and where; and features to compare pictures."""

import functools
import hashlib
from importlib.resources import files
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from safetensors.torch import load
from torch import Tensor, nn

from dimo_core.errors import UsageError
from dimo_core.metric import FeatureExtractor
from dimo_scenes.captions import COLOURS
from dimo_scenes.composing import COLUMNS, SCAN, SIDE
from dimo_scenes.drawing import Item

NOTHING, UNREADABLE = 10, 11
"""What a window may show besides the digits 0 .. 9: no digit in its middle, or something that is no digit."""

MARGIN = 2
"""Columns that a window shows on either side of the eight of its scan."""

FEATURES = 24
"""Features of a window; those of a picture are the three windows' one after another."""

PREPROCESSING = "rgb / 127.5 - 1, windows of 16 x 12"
"""What ``prepare`` and ``windows`` do, as part of the fingerprint."""


def prepare(images: UInt8[Tensor, "N C H W"]) -> Float[Tensor, "N 3 16 16"]:
    """Bytes to [-1, 1].

    Raises:
        UsageError: for images that are not 16x16 with three channels.
    """
    if images.shape[1:] != (3, SIDE, SIDE):
        raise UsageError(
            f"the reader of scenes reads images [N, 3, {SIDE}, {SIDE}], got {list(images.shape)}."
            " Choose another feature extractor and other metrics for these images."
        )
    return images.float() / 127.5 - 1


def windows(x: Float[Tensor, "N 3 16 16"]) -> Float[Tensor, "M 3 16 12"]:
    """The windows of each picture, left, middle and right, in a row; what is outside repeats the edge."""
    wide = F.pad(x, (MARGIN, MARGIN, 0, 0), mode="replicate")
    cut = [wide[..., first : first + SCAN + 2 * MARGIN] for first in COLUMNS]
    return torch.stack(cut, 1).flatten(0, 1)


class ReaderNetwork(nn.Module):
    """Reads one window: four 3x3 convolutions, 24 linear features, twelve answers, six colours.

    The features are taken before their nonlinearity and brought to mean 0 and variance 1 over scenes of the
    reader's own scans by the stored ``mean`` and ``std``. ``threshold`` is the least probability that counts.
    """

    mean: Tensor
    std: Tensor
    threshold: Tensor

    def __init__(self, *, width: int = 24, dropout: float = 0.3) -> None:
        """Untrained.

        Args:
            width: Channels of the first two convolutions; the others have twice as many.
            dropout: Share of the inputs of the features that training drops.
        """
        super().__init__()
        self.stem = nn.Conv2d(4, width, 3, padding=1)
        self.lower = nn.Conv2d(width, width, 3, padding=1)
        self.middle = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.top = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.features = nn.Linear(2 * width * (SIDE // 4) * ((SCAN + 2 * MARGIN) // 4), FEATURES)
        self.shape = nn.Linear(FEATURES, 12)
        self.colour = nn.Linear(FEATURES, len(COLOURS))
        self.register_buffer("mean", torch.zeros(3 * FEATURES))
        self.register_buffer("std", torch.ones(3 * FEATURES))
        self.register_buffer("threshold", torch.tensor(0.5))

    def forward(
        self, x: Float[Tensor, "M 3 16 12"]
    ) -> tuple[Float[Tensor, "M F"], Float[Tensor, "M 12"], Float[Tensor, "M 6"]]:
        """Raw features, logits of what is there, and logits of its colour, of windows."""
        # The largest channel is the ink, whatever its colour.
        h = F.gelu(self.stem(torch.cat([x, x.amax(1, keepdim=True)], 1)))
        h = F.max_pool2d(F.gelu(self.lower(h)), 2)
        h = F.gelu(self.middle(h))
        h = F.max_pool2d(F.gelu(self.top(h)), 2)
        h = self.features(self.dropout(h.flatten(1)))
        return h, self.shape(F.gelu(h)), self.colour(F.gelu(h))


@attrs.frozen(kw_only=True, eq=False)
class Readings:
    """What was read in each picture, window by window: left, middle, right.

    Attributes:
        shapes: Digit or ``NOTHING``, whichever is more probable.
        colours: Colour of the digit.
        sure: Probability of the least certain answer; low where something is no digit.
        threshold: From where on the reader counts as sure.
    """

    shapes: Int[Tensor, "N 3"]
    colours: Int[Tensor, "N 3"]
    sure: Float[Tensor, " N"]
    threshold: float

    @property
    def readable(self) -> list[bool]:
        """Whether the reader is sure of all three windows, and sees a digit in one or two."""
        clear = (self.shapes < NOTHING).any(1) & (self.sure >= self.threshold)
        found: list[bool] = clear.tolist()
        return found

    def items(self) -> list[tuple[Item, ...]]:
        """The digits of each picture, from left to right; none where it is not readable."""
        return [found if clear else () for found, clear in zip(self.all_items(), self.readable, strict=True)]

    def all_items(self) -> list[tuple[Item, ...]]:
        """The digits of each picture, from left to right, however sure they are."""
        rows = zip(self.shapes.tolist(), self.colours.tolist(), strict=True)
        return [
            tuple(Item(shapes[p], colours[p], p) for p in range(3) if shapes[p] < NOTHING)
            for shapes, colours in rows
        ]


def read(network: ReaderNetwork, images: UInt8[Tensor, "N C H W"]) -> Readings:
    """Read pictures.

    Raises:
        UsageError: for images of another shape.
    """
    with torch.no_grad():
        found: Any = [network(windows(prepare(part))) for part in images.cpu().split(500)]
    shape = torch.cat([shape.softmax(1)[:, :UNREADABLE] for _, shape, _ in found])
    shape = shape.unflatten(0, (-1, 3)).max(2)
    colour = torch.cat([colour.softmax(1) for _, _, colour in found]).unflatten(0, (-1, 3)).max(2)
    coloured = torch.where(shape.indices < NOTHING, colour.values, 1.0)
    return Readings(
        shapes=shape.indices,
        colours=colour.indices,
        sure=(shape.values * coloured).min(1).values,
        threshold=float(network.threshold),
    )


@functools.cache
def _weights() -> bytes:
    return files("dimo_scenes").joinpath("reader.safetensors").read_bytes()


@functools.cache
def shipped_reader() -> ReaderNetwork:
    """The network with the shipped weights, in eval mode; one object for all who ask."""
    network = ReaderNetwork()
    network.load_state_dict(load(_weights()))
    return network.eval().requires_grad_(False)


@attrs.frozen(kw_only=True)
class SceneReader(FeatureExtractor):
    """The shipped reader of scenes: 72 features of unit variance, 24 for each place; no class logits."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights and of how images are prepared."""
        return hashlib.sha256(_weights() + PREPROCESSING.encode()).hexdigest()

    def extract(
        self, images: UInt8[Tensor, "N C H W"]
    ) -> tuple[Float[Tensor, "N F"], Float[Tensor, "N K"] | None]:
        """Features [N, 72] of images [N, 3, 16, 16].

        Raises:
            UsageError: for images of another shape.
        """
        network: Any = shipped_reader()
        features, _, _ = network(windows(prepare(images.cpu())))
        return (features.unflatten(0, (-1, 3)).flatten(1) - network.mean) / network.std, None
