"""The objective ``masked-modelling``: trains a masked diffusion teacher on tokens of real data."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import attrs
from attrs import validators as v
from torch import Tensor

from dimo_core import conditions
from dimo_core.backbone import Backbone
from dimo_core.device import transfer
from dimo_core.draws import Draws
from dimo_core.method import process
from dimo_core.method.losses import denoising_loss
from dimo_core.method.process import draw_remask, valid_rows
from dimo_core.objective import (
    Batch,
    Ingredients,
    Objective,
    ObjectiveOptions,
    Optimisation,
    Part,
    Phase,
    Stream,
    Use,
)
from dimo_core.teacher import Teacher


@attrs.frozen(kw_only=True)
class MaskedModelling(ObjectiveOptions):
    """Cross-entropy of the true tokens where they are masked.

    Attributes:
        schedule: Corruption schedule r(t), with t uniform.
        masking: Hide exactly round(r(t) L) tokens, or each one with probability r(t).
        positions: Learn at the masked sites, or at all (MaskGIT-pytorch v1.0).
        label_smoothing: Share of the target spread evenly over the codes.
        label_dropout: Probability that a sample's condition is replaced by the null condition, for guidance.
        teacher: How the network is optimised.
    """

    needs: ClassVar[frozenset[Stream]] = frozenset({"data"})
    uses: ClassVar[frozenset[Use]] = frozenset()

    schedule: process.Schedule = "arccos"
    masking: process.Masking = "bernoulli"
    positions: Literal["masked", "all"] = "masked"
    label_smoothing: float = attrs.field(default=0.0, validator=[v.ge(0), v.lt(1)])
    label_dropout: float = attrs.field(default=0.1, validator=[v.ge(0), v.le(1)])
    teacher: Optimisation = attrs.field(
        factory=lambda: Optimisation(
            lr=1.5e-3, warmup=200, decay="cosine", weight_decay=0.05, beta2=0.99, ema=0.999
        )
    )

    def build(self, ingredients: Ingredients) -> "MaskedModellingObjective":
        """The teacher's network as the one trained part."""
        teacher = ingredients.teacher
        network = teacher.skeleton() if ingredients.skeleton else teacher.network()
        return MaskedModellingObjective(self, teacher, network.train())


class MaskedModellingObjective(Objective):
    """One part, one phase."""

    def __init__(self, options: MaskedModelling, teacher: Teacher, network: Backbone) -> None:
        self.options, self.teacher, self.network = options, teacher, network

    def parts(self) -> Mapping[str, Part]:
        """``teacher``."""
        return {"teacher": Part(module=self.network, optimisation=self.options.teacher)}

    def phases(self) -> Sequence[Phase]:
        """``denoise``."""
        return [DenoisePhase(self.options, self.teacher, self.network)]


class DenoisePhase(Phase):
    """Predict the tokens that q_{t|0} hides."""

    name, parts, stream = "denoise", ("teacher",), "data"

    def __init__(self, options: MaskedModelling, teacher: Teacher, network: Backbone) -> None:
        self.options, self.teacher, self.network = options, teacher, network

    def accumulate(self, batch: Batch, draws: Draws, *, watch: bool = False) -> Mapping[str, Tensor]:
        """The gradient of the mean cross-entropy over the global batch's learnt sites."""
        o, space = self.options, self.teacher.tokens
        remask = draw_remask(space.length, o.schedule, o.masking, draws, valid=batch.valid)
        c = batch.conditions
        if o.label_dropout > 0:
            drop = draws.uniform("label_dropout") < o.label_dropout
            c = conditions.where(drop, self.teacher.null_condition(c), c)
        x_t = process.apply_mask(batch.x_0, remask.masked, space)
        rows = remask.rows if o.positions == "masked" else valid_rows(batch.valid, draws)
        z = self.network.logits(x_t, c, mask_ratio=transfer(remask.ratio, x_t.device), rows=rows).flatten(
            0, -2
        )
        x = batch.x_0.flatten() if rows is None else batch.x_0.flatten()[rows]
        every = draws.total * space.length if batch.valid is None else int(batch.valid.sum())
        count = remask.total if o.positions == "masked" else every
        loss = denoising_loss(z, x, label_smoothing=o.label_smoothing, restricted=space.restricted) / count
        loss.backward()
        return {"loss": loss.detach(), "accuracy": (z.argmax(-1) == x).sum() / count}
