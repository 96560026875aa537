"""``Tokenizer``: images to tokens and back through a codebook; and the choice of one by its kind."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dimo_core.errors import CheckpointError, UsageError


class Tokenizer(nn.Module, ABC):
    """A codebook of K rows, with an analysis of images into vectors and a synthesis from them.

    An image has one vector of D numbers for each of its grid x grid sites, row-major. ``encode`` takes the
    nearest row of each vector; ``decode`` draws the rows, or their mean under probabilities.

    Attributes:
        kind: Its name in ``teacher.yaml``.
        chunk: Images that pass through the networks at once; it bounds memory and changes no result.
        channels: Image channels C.
        side: Side of the square image in pixels.
    """

    kind: ClassVar[str]
    chunk: ClassVar[int]
    channels: int
    side: int

    @property
    @abstractmethod
    def codebook(self) -> Float[Tensor, "K D"]:
        """The rows."""

    @property
    @abstractmethod
    def grid(self) -> int:
        """Tokens per side."""

    @property
    def codes(self) -> int:
        """Number of rows K."""
        return len(self.codebook)

    @abstractmethod
    def latents(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B L D"]:
        """The vectors of images in [0, 1], before the nearest row is taken.

        Raises:
            UsageError: when there is no encoder.
        """

    @abstractmethod
    def pixels(self, vectors: Float[Tensor, "B L D"]) -> Float[Tensor, "B C H W"]:
        """Images of vectors: about [0, 1], not clamped, differentiable."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """What ``from_spec`` needs besides the tensors of ``state_dict()``: plain data, ``kind`` included."""

    @classmethod
    @abstractmethod
    def from_spec(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str) -> "Tokenizer":
        """The frozen tokenizer of a file.

        Args:
            spec: What ``spec()`` gave.
            tensors: What ``state_dict()`` gave.
            source: Where they were read, for messages.

        Raises:
            CheckpointError: when description and tensors do not fit.
        """

    def at_grid(self, grid: int) -> "Tokenizer":
        """This tokenizer for images that have ``grid`` tokens per side.

        Raises:
            CheckpointError: when it has another grid and cannot be scaled.
        """
        if grid != self.grid:
            raise CheckpointError(
                f"the tokenizer has {self.grid} x {self.grid} tokens, the transformer {grid} x {grid}. "
                "Give the tokenizer that it was trained with."
            )
        return self

    def encode(self, images: Float[Tensor, "B C H W"]) -> Int[Tensor, "B L"]:
        """The nearest row of each site, row-major.

        Args:
            images: In [0, 1], of ``channels`` channels and ``side`` pixels a side.

        Raises:
            UsageError: for images of another size, or when there is no encoder.
        """
        expected = (self.channels, self.side, self.side)
        if images.shape[1:] != expected:
            raise UsageError(
                f"the tokenizer takes images of {list(expected)} (channels, height, width), "
                f"not {list(images.shape[1:])}. Resize or convert them first."
            )
        with torch.no_grad():
            return torch.cat([self._nearest(self.latents(part)) for part in torch.split(images, self.chunk)])

    def decode(self, x: Int[Tensor, "B L"] | Float[Tensor, "B L V"]) -> Float[Tensor, "B C H W"]:
        """Images in [0, 1] of tokens, or of probabilities (differentiable in them)."""
        return torch.cat([self.pixels(self.lookup(part)) for part in torch.split(x, self.chunk)]).clamp(0, 1)

    def lookup(self, x: Int[Tensor, "B L"] | Float[Tensor, "B L V"]) -> Float[Tensor, "B L D"]:
        """The rows of tokens, or their mean under probabilities.

        What is no code, a drawn mask token, stands for the last code; so does its probability, where the
        columns go beyond K.
        """
        last = self.codes - 1
        if not x.is_floating_point():
            return self.codebook[x.clamp_max(last)]
        if x.shape[-1] > self.codes:
            x = torch.cat([x[..., :last], x[..., last:].sum(-1, keepdim=True)], dim=-1)
        x, rows = _alike(x, self.codebook)
        return x @ rows

    def _nearest(self, vectors: Float[Tensor, "B L D"]) -> Int[Tensor, "B L"]:
        vectors, rows = _alike(vectors, self.codebook)
        codes: Tensor = torch.cdist(vectors, rows.expand(len(vectors), -1, -1)).argmin(-1)
        return codes


def _alike(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the wider of their dtypes."""
    dtype = torch.promote_types(a.dtype, b.dtype)
    return a.to(dtype), b.to(dtype)
