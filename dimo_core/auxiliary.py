"""``Auxiliary`` (p_psi): a masked diffusion model of what the generator produces."""

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from dimo_core.backbone import Rows
from dimo_core.conditions import Condition
from dimo_core.teacher import Teacher
from dimo_core.tokens import Tokens


class Auxiliary(nn.Module, ABC):
    """Scores re-masked generated tokens, and learns to complete them."""

    @abstractmethod
    def forward(
        self, x_tilde_t: Tokens, c: Condition, *, mask_ratio: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L D"]:
        """Hidden states, without guidance."""

    @property
    def gathers(self) -> bool:
        """Whether ``head`` takes hidden states of the rows alone, as ``Backbone.gathers`` says."""
        return False

    @abstractmethod
    def head(self, hidden: Float[Tensor, "... D"], rows: Rows | None = None) -> Float[Tensor, "... V"]:
        """z_psi from hidden states, at all sites or at flat rows."""

    @abstractmethod
    def loss(self, z_psi: Float[Tensor, "K V"], x_theta: Int[Tensor, " K"]) -> Float[Tensor, ""]:
        """The summed loss of completing x_theta at masked rows; the caller divides by the global count.

        It is called for some of a batch's rows at a time, so that not all logits are alive at once.
        """


class AuxiliaryOptions(ABC):
    """Options of an auxiliary; a frozen attrs class with one field an option.

    Where presets set options of the auxiliary ``suggested_as``, those that this one has too are set as well.
    """

    suggested_as: ClassVar[str] = ""

    @abstractmethod
    def build(self, teacher: Teacher, *, skeleton: bool = False) -> Auxiliary:
        """An auxiliary that starts as a copy of the teacher.

        Args:
            teacher: Whose weights to start from.
            skeleton: True builds the modules without reading weights.
        """
