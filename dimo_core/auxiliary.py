"""``Auxiliary`` (p_psi): a masked diffusion model of what the generator produces."""

from abc import ABC, abstractmethod

from jaxtyping import Float, Int
from torch import Tensor, nn

from dimo_core.backbone import Rows
from dimo_core.teacher import Teacher
from dimo_core.tokens import Tokens
from dimo_core.tree import Condition


class Auxiliary(nn.Module, ABC):
    """Scores re-masked generated tokens, and learns to complete them."""

    @abstractmethod
    def forward(
        self, x_tilde_t: Tokens, c: Condition, *, mask_ratio: Float[Tensor, " B"], rows: Rows | None = None
    ) -> Float[Tensor, "... V"]:
        """z_psi, ``[B, L, V]`` or ``[K, V]`` for flat rows."""

    @abstractmethod
    def loss(self, z_psi: Float[Tensor, "K V"], x_theta: Int[Tensor, " K"]) -> Float[Tensor, ""]:
        """The summed loss of completing x_theta at masked rows; the caller divides by the global count."""


class AuxiliaryOptions(ABC):
    """Options of an auxiliary; a frozen attrs class with one field an option."""

    @abstractmethod
    def build(self, teacher: Teacher, *, skeleton: bool = False) -> Auxiliary:
        """An auxiliary that starts as a copy of the teacher.

        Args:
            teacher: Whose weights to start from.
            skeleton: True builds the modules without reading weights.
        """
