"""The paper's auxiliary: a copy of the teacher that keeps learning what the generator produces."""

import attrs
from attrs import validators as v
from jaxtyping import Float, Int
from torch import Tensor

from dimo_core.auxiliary import Auxiliary, AuxiliaryOptions
from dimo_core.backbone import Backbone, Rows
from dimo_core.conditions import Condition
from dimo_core.method.losses import denoising_loss
from dimo_core.method.one_step import trainable_copy
from dimo_core.teacher import Teacher
from dimo_core.tokens import Tokens


@attrs.frozen(kw_only=True)
class DenoiserOptions(AuxiliaryOptions):
    """What every masked diffusion model of the generator's samples is told, whatever of it is trained.

    Attributes:
        label_smoothing: Share of the target spread evenly over the codes; use what the teacher was trained
            with, so that both are biased alike.
    """

    label_smoothing: float = attrs.field(default=0.0, validator=[v.ge(0), v.lt(1)])


@attrs.frozen(kw_only=True)
class Denoiser(DenoiserOptions):
    """A masked diffusion model of the generator's samples, starting as the teacher.

    Attributes:
        train_embeddings: Train the parameters that the teacher lists as frozen (its embeddings) too.
    """

    train_embeddings: bool = False

    def build(self, teacher: Teacher, *, skeleton: bool = False) -> "DenoisingAuxiliary":
        """An auxiliary with the teacher's weights."""
        backbone = trainable_copy(teacher, skeleton=skeleton, train_embeddings=self.train_embeddings)
        return DenoisingAuxiliary(self, backbone)


class DenoisingAuxiliary(Auxiliary):
    """z_psi, trained by cross-entropy on re-masked generated tokens."""

    def __init__(self, options: DenoiserOptions, backbone: Backbone) -> None:
        super().__init__()
        self.options, self.backbone = options, backbone

    def forward(
        self, x_tilde_t: Tokens, c: Condition, *, mask_ratio: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L D"]:
        """Hidden states, without guidance."""
        hidden: Tensor = self.backbone(x_tilde_t, c, mask_ratio=mask_ratio)
        return hidden

    @property
    def gathers(self) -> bool:
        """As the backbone does."""
        return self.backbone.gathers

    def head(self, hidden: Float[Tensor, "... D"], rows: Rows | None = None) -> Float[Tensor, "... V"]:
        """z_psi from hidden states, at all sites or at flat rows."""
        return self.backbone.head(hidden, rows)

    def loss(self, z_psi: Float[Tensor, "K V"], x_theta: Int[Tensor, " K"]) -> Float[Tensor, ""]:
        """Cross-entropy summed over the rows, in fp32."""
        return denoising_loss(z_psi, x_theta, label_smoothing=self.options.label_smoothing)
