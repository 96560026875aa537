"""``Auxiliary`` (p_psi): a masked diffusion model of what the generator produces."""

from abc import ABC, abstractmethod
from typing import ClassVar

import attrs
from jaxtyping import Float, Int
from torch import Tensor, nn

from dimo_core.backbone import Rows
from dimo_core.conditions import Condition
from dimo_core.errors import UsageError
from dimo_core.teacher import Teacher
from dimo_core.tokens import Tokens


@attrs.frozen(kw_only=True, eq=False)
class Targets:
    """What an auxiliary learns at K masked rows.

    Attributes:
        x_theta: The tokens that were hidden.
        z_theta: Logits of the distributions that they were drawn from; of sites that were decided before, all
            but the token's are -inf. None where only tokens are known.
        z_phi: Logits of the teacher at x_tilde_t, where the auxiliary ``reads_teacher``; else None.
        w: Weight of each row; None for 1.
    """

    x_theta: Int[Tensor, " K"]
    z_theta: Float[Tensor, "K V"] | None = None
    z_phi: Float[Tensor, "K V"] | None = None
    w: Float[Tensor, " K"] | None = None


class Auxiliary(nn.Module, ABC):
    """Scores re-masked generated tokens, and learns to complete them.

    Attributes:
        reads_teacher: Whether it learns from the teacher's logits, too.
    """

    reads_teacher: bool = False

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

    def learn(self, z_psi: Float[Tensor, "K V"], targets: Targets) -> Float[Tensor, ""]:
        """The summed loss of completing what is hidden; the default is ``loss`` of the tokens.

        Raises:
            UsageError: for rows of unequal weight, which ``loss`` knows nothing of.
        """
        if targets.w is not None:
            raise UsageError(
                f"the auxiliary {type(self).__name__} weighs all rows alike, and the objective weighs them "
                "by their mask ratio. Use --auxiliary denoiser."
            )
        return self.loss(z_psi, targets.x_theta)


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
