"""``ImageTokenizer``: images to codes and back, by the ``VQModel`` of diffusers.

Its images are in [0, 1] already: nothing is rescaled from -1 .. 1. It is convolutional, so any grid will do.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dimo_core.errors import CheckpointError, UsageError
from dimo_core.files.weights import assign, check_finite
from dimo_core.tokens import Tokens
from dimo_meissonic.libraries import library

SITES = 4096
"""Tokens that pass through the networks at once, one image of 1024 pixels; it changes no result."""


def pixel_factor(config: Mapping[str, Any], source: str) -> int:
    """Pixels a token, along a side, by ``vqvae/config.json``.

    Raises:
        CheckpointError: when it describes no image tokenizer.
    """
    try:
        return int(2 ** (len(config["block_out_channels"]) - 1))
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{source} describes no VQModel: no block_out_channels") from error


class ImageTokenizer(torch.nn.Module):
    """Encoder, codebook and decoder, frozen, always in fp32.

    Args:
        config: ``vqvae/config.json``.
        tensors: The weights.
        grid: Rows and columns of tokens.
        source: Where they were read, for messages.

    Raises:
        CheckpointError: when config and weights do not fit.
        NumericalError: when the weights hold NaN or infinity.
        MissingLibraryError: if diffusers is not installed, or does not load.
    """

    def __init__(
        self, config: Mapping[str, Any], tensors: Mapping[str, Tensor], grid: tuple[int, int], source: str
    ) -> None:
        super().__init__()
        cls = library("diffusers.models.autoencoders.vq_model").VQModel
        try:
            with torch.device("meta"):
                self.model = cls.from_config(dict(config))
        except (TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{source}: config.json describes an impossible VQModel: {error}"
            ) from error
        self.model.to_empty(device="cpu")
        assign(self.model, tensors, source)
        check_finite(source, tensors)
        self.model.eval().requires_grad_(False)
        self.grid, self.factor = grid, pixel_factor(config, source)

    @property
    def codes(self) -> int:
        """Number of codes V."""
        return len(self.model.quantize.embedding.weight)

    @property
    def chunk(self) -> int:
        """Images that pass through the networks at once."""
        return max(1, SITES // (self.grid[0] * self.grid[1]))

    def decode(self, x: Tokens | Float[Tensor, "B L V"]) -> Float[Tensor, "B 3 H W"]:
        """Images in [0, 1] of codes, or of probabilities over them (differentiable in these)."""
        return torch.cat([self._pixels(part) for part in torch.split(x, self.chunk)]).clamp(0, 1)

    def encode(self, images: Float[Tensor, "B 3 H W"]) -> Int[Tensor, "B L"]:
        """The nearest code of each site.

        Raises:
            UsageError: for images of another size.
        """
        expected = [3, *(side * self.factor for side in self.grid)]
        if list(images.shape[1:]) != expected:
            raise UsageError(
                f"the tokenizer takes images of {expected} (channels, height, width) for a grid of "
                f"{self.grid[0]} x {self.grid[1]} tokens, not {list(images.shape[1:])}. "
                "Resize them first, or set --teacher.grid."
            )
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            codes = [
                self.model.quantize(self.model.encode(part.float()).latents)[2][2].view(len(part), -1)
                for part in torch.split(images, self.chunk)
            ]
        return torch.cat(codes)

    def _pixels(self, x: Tensor) -> Tensor:
        rows = self.model.quantize.embedding.weight
        with torch.autocast(x.device.type, enabled=False):
            vectors = x.float() @ rows if x.is_floating_point() else rows[x]
            z = vectors.transpose(1, 2).unflatten(2, self.grid).contiguous()
            again = z if self.model.config.norm_type == "spatial" else None
            pixels: Tensor = self.model.decoder(self.model.post_quant_conv(z), again)
        return pixels
