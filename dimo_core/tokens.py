"""Token spaces and the tensor types that appear in every signature."""

from typing import Literal

import attrs
from attrs import validators as v
from jaxtyping import Int
from torch import Tensor

from dimo_core.errors import UsageError

Tokens = Int[Tensor, "B L"]
"""Token ids, ``[B, L]``."""

Modality = Literal["image", "text", "tokens"]


@attrs.frozen(kw_only=True)
class TokenSpace:
    """Where tokens live: L sites, V codes and one mask id.

    Attributes:
        length: Number of sites L.
        codes: Number of codes V; the codes are 0 .. V-1.
        mask_id: The id that stands for "masked"; not a code.
        grid: Rows and columns of the sites, row-major; None for tokens without a plane.
        modality: What the tokens decode to.
        scores_mask: True when logits carry one extra last column for the mask token, which may then be drawn
            (the released Di[M]O code; option ``mask_logit: keep`` of a teacher). The mask id is then V.
    """

    length: int = attrs.field(validator=v.gt(0))
    codes: int = attrs.field(validator=v.gt(1))
    mask_id: int
    grid: tuple[int, int] | None = None
    modality: Modality = "tokens"
    scores_mask: bool = False

    def __attrs_post_init__(self) -> None:
        """Keep the mask id apart from the codes.

        Raises:
            ValueError: if the mask id is a code, or is not V although the head scores it; for a grid of
                another number of sites.
        """
        if self.grid is not None and self.grid[0] * self.grid[1] != self.length:
            raise ValueError(
                f"grid {self.grid} has {self.grid[0] * self.grid[1]} sites, but length is {self.length}"
            )
        if 0 <= self.mask_id < self.codes:
            raise ValueError(f"mask_id {self.mask_id} is one of the {self.codes} codes")
        if self.scores_mask and self.mask_id != self.codes:
            raise ValueError(f"with scores_mask the mask id must be V = {self.codes}, got {self.mask_id}")

    def checked(self, x: Tokens) -> Tokens:
        """Clean tokens, if they are of this space; waits for their device.

        Raises:
            UsageError: for another length, or ids that are no codes.
        """
        if x.shape[1] != self.length or (len(x) and not 0 <= int(x.min()) <= int(x.max()) < self.codes):
            least, most = (int(x.min()), int(x.max())) if x.numel() else (0, 0)
            raise UsageError(
                f"tokens of {x.shape[1]} sites from {least} to {most} were given; the teacher's have "
                f"{self.length} sites and codes from 0 to {self.codes - 1}."
            )
        return x

    @property
    def columns(self) -> int:
        """Number of logit columns: V, or V + 1 when the mask token is scored."""
        return self.codes + int(self.scores_mask)
