"""The smallest tokenizer: square patches, each the nearest row of a k-means codebook."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import fold, unfold

from dimo_core.errors import CheckpointError
from dimo_maskgit.tokenizer import Tokenizer


class PatchCodebook(Tokenizer):
    """Images in [0, 1] to tokens and back, patch by patch.

    Args:
        rows: The codebook, ``[K, C * patch * patch]``.
        channels: Image channels C.
        patch: Side of a patch in pixels.
        side: Side of the square image in pixels.
    """

    kind = "patches"
    chunk = 4096
    rows: Tensor

    def __init__(self, rows: Float[Tensor, "K P"], channels: int, patch: int, side: int) -> None:
        super().__init__()
        self.channels, self.patch, self.side = channels, patch, side
        self.register_buffer("rows", rows)

    @property
    def codebook(self) -> Float[Tensor, "K P"]:
        """The rows."""
        return self.rows

    @property
    def grid(self) -> int:
        """Patches per side."""
        return self.side // self.patch

    def latents(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B L P"]:
        """The patches, row-major."""
        return unfold(images, self.patch, stride=self.patch).transpose(1, 2)

    def pixels(self, vectors: Float[Tensor, "B L P"]) -> Float[Tensor, "B C H W"]:
        """Patches laid side by side."""
        images: Tensor = fold(vectors.transpose(1, 2), (self.side, self.side), self.patch, stride=self.patch)
        return images

    def spec(self) -> dict[str, Any]:
        """Kind, channels, patch and side."""
        return {"kind": self.kind, "channels": self.channels, "patch": self.patch, "side": self.side}

    @classmethod
    def from_spec(
        cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str
    ) -> "PatchCodebook":
        """The codebook of a file.

        Raises:
            CheckpointError: when description and tensors do not fit.
        """
        sizes = {name: value for name, value in spec.items() if name != "kind"}
        positive = all(isinstance(value, int) and value > 0 for value in sizes.values())
        if sizes.keys() != {"channels", "patch", "side"} or not positive or sizes["side"] % sizes["patch"]:
            raise CheckpointError(
                f"{source}: wrong description of a patch codebook: {sizes}. Its entries are channels, patch "
                "and side, positive integers, side a multiple of patch."
            )
        width = sizes["channels"] * sizes["patch"] ** 2
        shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
        if shapes != {"rows": [*shapes.get("rows", [])[:1], width]}:
            raise CheckpointError(
                f"{source}: a patch codebook of {sizes} has one tensor, rows [K, {width}]; found: {shapes}"
            )
        return cls(tensors["rows"], **sizes)


def fit_codebook(
    images: Float[Tensor, "N C H W"], codes: int, patch: int, *, seed: int, iterations: int = 100
) -> Float[Tensor, "K P"]:
    """k-means over all patches: k-means++ start, Lloyd's iterations, empty clusters moved to the worst patch.

    Raises:
        ValueError: when there are fewer distinct patches than codes.
    """
    patches = unfold(images.double(), patch, stride=patch).transpose(1, 2).flatten(0, 1)
    distinct, weight = patches.unique(dim=0, return_counts=True)
    if len(distinct) < codes:
        raise ValueError(f"{len(distinct)} distinct patches cannot make {codes} codes; ask for fewer codes")
    weight = weight.double()
    generator = torch.Generator().manual_seed(seed)
    rows = distinct[torch.multinomial(weight, 1, generator=generator)]
    while len(rows) < codes:
        distance = torch.cdist(distinct, rows).min(1).values.square() * weight
        rows = torch.cat([rows, distinct[torch.multinomial(distance, 1, generator=generator)]])
    for _ in range(iterations):
        distance, nearest = torch.cdist(distinct, rows).min(1)
        mass = torch.zeros(codes, dtype=weight.dtype).index_add_(0, nearest, weight)
        total = torch.zeros_like(rows).index_add_(0, nearest, distinct * weight[:, None])
        moved = torch.where(mass[:, None] > 0, total / mass.clamp_min(1)[:, None], rows)
        if not bool((mass > 0).all()):
            moved[mass == 0] = distinct[(distance * weight).topk(int((mass == 0).sum())).indices]
        if torch.equal(moved, rows):
            break
        rows = moved
    codebook: Tensor = rows[rows.sum(1).argsort()].float()
    return codebook
