"""The smallest tokenizer: square patches, each the nearest row of a k-means codebook."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import fold, unfold


class PatchCodebook(nn.Module):
    """Images in [0, 1] to tokens and back, patch by patch.

    Args:
        rows: The codebook, ``[K, C * patch * patch]``.
        channels: Image channels C.
        patch: Side of a patch in pixels.
        side: Side of the square image in pixels.
    """

    rows: Tensor

    def __init__(self, rows: Float[Tensor, "K P"], channels: int, patch: int, side: int) -> None:
        super().__init__()
        self.channels, self.patch, self.side = channels, patch, side
        self.register_buffer("rows", rows)

    def encode(self, images: Float[Tensor, "B C H W"]) -> Int[Tensor, "B L"]:
        """The nearest code of each patch, row-major."""
        patches = unfold(images, self.patch, stride=self.patch).transpose(1, 2)
        codes: Tensor = torch.cdist(patches, self.rows.to(patches).expand(len(patches), -1, -1)).argmin(-1)
        return codes

    def decode(self, x: Int[Tensor, "B L"] | Float[Tensor, "B L V"]) -> Float[Tensor, "B C H W"]:
        """Images from tokens, or the mean image under probabilities (differentiable)."""
        patches = (
            x @ self.rows.to(x.dtype) if x.is_floating_point() else self.rows[x.clamp_max(len(self.rows) - 1)]
        )
        images: Tensor = fold(patches.transpose(1, 2), (self.side, self.side), self.patch, stride=self.patch)
        return images


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
