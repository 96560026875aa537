"""Small random changes of scans that leave them the same handwriting: for training a teacher."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dimo_core.draws import Draws

ANGLE = 0.1
"""Largest rotation and shear, in radians."""
SCALE = 0.05
"""Largest relative change of size."""
SHIFT = 0.06
"""Largest shift, as a share of half the image's side: about a quarter of a pixel."""
NOISE = 0.025
"""Standard deviation of added noise, on the scale where full ink is 1."""


def augmented(images: Float[Tensor, "B C H W"], probability: float, draws: Draws) -> Float[Tensor, "B C H W"]:
    """Each image is, with ``probability``, moved and bent a little; and, independently, made noisy."""
    turn, size, shear = (2 * draws.uniform(f"augment.{name}") - 1 for name in ("turn", "size", "shear"))
    shift = (2 * draws.uniform("augment.shift", 2) - 1) * SHIFT
    angle, scale = turn * ANGLE, 1 + size * SCALE
    affine = torch.stack(
        [
            torch.stack([angle.cos() * scale, shear * ANGLE - angle.sin(), shift[:, 0]], 1),
            torch.stack([angle.sin(), angle.cos() * scale, shift[:, 1]], 1),
        ],
        1,
    )
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False)
    noise = draws.normal("augment.noise", *images.shape[1:]) * NOISE
    move, blur = (draws.uniform(f"augment.{n}").view(-1, 1, 1, 1) < probability for n in ("move", "noisy"))
    return (torch.where(move, moved, images) + noise * blur).clamp(0, 1)
