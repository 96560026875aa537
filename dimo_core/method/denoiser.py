"""The paper's auxiliary: a copy of the teacher that keeps learning what the generator produces."""

import attrs
from attrs import validators as v
from jaxtyping import Float, Int
from torch import Tensor

from dimo_core.auxiliary import Auxiliary, AuxiliaryOptions, Targets
from dimo_core.backbone import Backbone, Rows, full
from dimo_core.conditions import Condition
from dimo_core.method.losses import denoising_loss, soft_loss
from dimo_core.method.one_step import trainable_copy
from dimo_core.teacher import Teacher
from dimo_core.tokens import Tokens


@attrs.frozen(kw_only=True)
class DenoiserOptions(AuxiliaryOptions):
    """What every masked diffusion model of the generator's samples is told, whatever of it is trained.

    Attributes:
        label_smoothing: Share of the target spread evenly over the codes; use what the teacher was trained
            with, so that both are biased alike.
        soft: Weight a of the generator's whole distribution as the target; 1 - a is left for the drawn token
            (the released code can; IDLM: 1).
        soft_temperature: T, which divides both logits there; the term is multiplied by T^2.
        teacher_weight: Weight of the teacher's prediction at the same rows as a further target (D-MMD: 1).
    """

    label_smoothing: float = attrs.field(default=0.0, validator=[v.ge(0), v.lt(1)])
    soft: float = attrs.field(default=0.0, validator=[v.ge(0), v.le(1)])
    soft_temperature: float = attrs.field(default=1.0, validator=v.gt(0))
    teacher_weight: float = attrs.field(default=0.0, validator=v.ge(0))


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
        return DenoisingAuxiliary(self, backbone, restricted=teacher.tokens.restricted)


class DenoisingAuxiliary(Auxiliary):
    """z_psi, trained by cross-entropy on re-masked generated tokens."""

    def __init__(self, options: DenoiserOptions, backbone: Backbone, *, restricted: bool = False) -> None:
        super().__init__()
        self.options, self.backbone, self.restricted = options, backbone, restricted
        self.reads_teacher = options.teacher_weight > 0

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
        return self._hard(z_psi, x_theta, None)

    def _hard(
        self, z_psi: Float[Tensor, "K V"], x_theta: Int[Tensor, " K"], w: Float[Tensor, " K"] | None
    ) -> Float[Tensor, ""]:
        smoothing = self.options.label_smoothing
        return denoising_loss(z_psi, x_theta, label_smoothing=smoothing, w=w, restricted=self.restricted)

    def learn(self, z_psi: Float[Tensor, "K V"], targets: Targets) -> Float[Tensor, ""]:
        """(1 - a) times the loss of tokens, a T^2 times that of what they were drawn from; the teacher's."""
        o, w = self.options, targets.w
        a, heat = o.soft, o.soft_temperature
        found = z_psi.new_zeros(()).to(full(z_psi))
        if a < 1:
            found = found + (1 - a) * self._hard(z_psi, targets.x_theta, w)
        if a > 0:
            assert targets.z_theta is not None, "soft targets are the generator's logits"
            found = found + a * heat**2 * soft_loss(z_psi / heat, targets.z_theta / heat, w=w)
        if targets.z_phi is not None and o.teacher_weight > 0:
            found = found + o.teacher_weight * soft_loss(z_psi, targets.z_phi, w=w)
        return found
