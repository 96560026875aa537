"""The objectives ``di4c`` and ``di4c-d``: one trained part, one phase."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import attrs
import torch
from attrs import validators as v
from jaxtyping import Float, Int
from torch import Tensor, nn

from dimo_core import conditions
from dimo_core.backbone import Backbone, full
from dimo_core.conditions import Condition
from dimo_core.device import transfer
from dimo_core.draws import Draws, categorical, stream_seed
from dimo_core.errors import UsageError
from dimo_core.guidance import Guidance, guided
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
from dimo_di4c.generator import MixtureGenerator
from dimo_di4c.half_step import (
    Schedule,
    State,
    completed,
    draw_state,
    gumbel_scale,
    mask_share,
    most_certain,
)
from dimo_di4c.losses import Alpha, Mixing, Terms, Weights, gradient, terms, weights


@attrs.frozen(kw_only=True)
class Di4C(ObjectiveOptions):
    """Di4C (arXiv 2410.08709): the mixture's jump from x_t is the teacher's short step, then its own jump.

    Attributes:
        latents: N, components of each image.
        latent_chunk: Components that are in memory together: memory then does not grow with ``latents``, for
            N forward passes more. Null for all, in one pass.
        delta: The teacher's step in u; within ``delta`` of the data the teacher itself is the target.
        data_cv: Weight of the data's control variate, by which data teach the correlations (``di4c-d``: 0.1).
        alpha: How that weight changes with u: sigmoid(20 (1/2 - u)), 1 - u, or not.
        teacher_marginal: Weight of KL(p0 || lbar), the teacher's marginals against the mixture's, at every u.
        schedule: r(u), the share of masked tokens of x_t; ``square`` is 1 - u^2.
        gumbel: Strength of the noise on the teacher's confidence within its step.
        teacher_steps: T: the noise is multiplied by 1 - u T / (T - 1).
        order: Which drawn tokens the teacher keeps: the most certain ones, or random ones.
        teacher_temperature: Divides the teacher's logits in the draws of its step, not in p0.
        label_dropout: Probability that an image's condition is replaced by the null condition, for guidance.
        dropout: Train the generator with the network's dropout, in the trained pass alone.
        generator: How the generator is optimised.
    """

    needs: ClassVar[frozenset[Stream]] = frozenset({"data"})
    uses: ClassVar[frozenset[Use]] = frozenset({"guidance"})

    latents: int = attrs.field(default=32, validator=v.ge(1))
    latent_chunk: int | None = attrs.field(default=None, validator=v.optional(v.ge(1)))
    delta: float = attrs.field(default=0.05, validator=[v.gt(0), v.le(1)])
    data_cv: float = attrs.field(default=0.0, validator=v.ge(0))
    alpha: Alpha = "sigmoid"
    teacher_marginal: float = attrs.field(default=1.0, validator=v.ge(0))
    schedule: Schedule = "arccos"
    gumbel: float = attrs.field(default=4.5, validator=v.ge(0))
    teacher_steps: int = attrs.field(default=8, validator=v.ge(2))
    order: Literal["confidence", "random"] = "confidence"
    teacher_temperature: float = attrs.field(default=1.0, validator=v.gt(0))
    label_dropout: float = attrs.field(default=0.1, validator=[v.ge(0), v.le(1)])
    dropout: bool = True
    generator: Optimisation = attrs.field(
        factory=lambda: Optimisation(lr=1e-5, warmup=0, beta2=0.96, weight_decay=1e-5)
    )

    def build(self, ingredients: Ingredients) -> "Di4CObjective":
        """Load the teacher and the mixture.

        Raises:
            UsageError: if the generator is no mixture, or the teacher has no null condition where one is
                needed.
        """
        i = ingredients
        p_theta = None if i.generator is None else i.generator.build(i.teacher, skeleton=i.skeleton)
        if not isinstance(p_theta, MixtureGenerator) or i.guidance is None:
            raise UsageError(
                f"the objective trains a mixture, and {type(i.generator).__name__} makes none. "
                "Use --generator mixture."
            )
        i.guidance.check(i.teacher)
        if self.label_dropout > 0 and "guidance" not in i.teacher.capabilities:
            raise UsageError(
                f"teacher {type(i.teacher).__name__} has no null condition: use --objective.label_dropout 0."
            )
        p_phi = (i.teacher.skeleton() if i.skeleton else i.teacher.network(share=True)).requires_grad_(False)
        return Di4CObjective(self, i.teacher, p_phi.eval(), p_theta, i.guidance)


@attrs.frozen(kw_only=True)
class Di4CD(Di4C):
    """Di4C with data (``di4c-d``), as its script and the published checkpoint are: ``data_cv`` is 0.1."""

    data_cv: float = attrs.field(default=0.1, validator=v.ge(0))


class Di4CObjective(Objective):
    """The generator, in one phase."""

    def __init__(
        self, options: Di4C, teacher: Teacher, p_phi: Backbone, p_theta: MixtureGenerator, guidance: Guidance
    ) -> None:
        self.options, self.teacher = options, teacher
        self.p_phi, self.p_theta, self.guidance = p_phi, p_theta, guidance

    def parts(self) -> Mapping[str, Part]:
        """``generator``."""
        return {"generator": Part(module=self.p_theta, optimisation=self.options.generator)}

    def frozen(self) -> Mapping[str, nn.Module]:
        """The teacher."""
        return {"teacher": self.p_phi}

    def phases(self) -> Sequence[Phase]:
        """``di4c``."""
        return [Di4CPhase(self)]


class Di4CPhase(Phase):
    """The teacher's step, the mixture's own jump as target, and the closed-form gradient."""

    name, parts, stream = "di4c", ("generator",), "data"

    def __init__(self, objective: Di4CObjective) -> None:
        self.options, self.teacher, self.guidance = objective.options, objective.teacher, objective.guidance
        self.p_phi, self.p_theta = objective.p_phi, objective.p_theta

    def accumulate(self, batch: Batch, draws: Draws, *, watch: bool = False) -> Mapping[str, Tensor]:
        """Adds the gradient of the mean loss over the global batch (``dimo_di4c.losses``)."""
        o, c = self.options, self._conditions(batch.conditions, draws)
        state = draw_state(
            batch.x_0,
            self.teacher.tokens,
            draws,
            delta=o.delta,
            schedule=o.schedule,
            valid=batch.valid,
        )
        z_phi = self._z_phi(state, c)
        qbar, x_hat = self._targets(state, c, z_phi, draws)
        mixing = Mixing(z_phi.log_softmax(-1), qbar, torch.cat([batch.x_0[:, None], x_hat], 1))
        self.p_theta.train(o.dropout)
        latent, whole = draws.uniform("lambda", o.latents), len(self._chunks()) == 1
        for some in self._chunks():
            with torch.set_grad_enabled(whole):
                z = self._z_theta(state, c, latent, some, draws)
            mixing.add(z.detach().log_softmax(-1))
        known = mixing.known()
        w = weights(
            state.u, delta=o.delta, data_cv=o.data_cv, alpha=o.alpha, marginal=o.teacher_marginal
        ).like(qbar)
        for some in self._chunks():
            if not whole:
                z = self._z_theta(state, c, latent, some, draws)
            z.backward(gradient(z.detach().log_softmax(-1), some, known, w, draws.total))
        return self._logs(terms(known), w, draws.total)

    def _chunks(self) -> list[slice]:
        """Which components at a time."""
        size = self.options.latent_chunk or self.options.latents
        return [slice(start, start + size) for start in range(0, self.options.latents, size)]

    def _conditions(self, c: Condition, draws: Draws) -> Condition:
        """With some of them dropped: in all passes of these images."""
        if self.options.label_dropout == 0:
            return c
        drop = draws.uniform("label_dropout") < self.options.label_dropout
        return conditions.where(drop, self.teacher.null_condition(c), c)

    @torch.no_grad()
    def _z_phi(self, state: State, c: Condition) -> Float[Tensor, "B L V"]:
        """The teacher at x_t, guided as the run says (the released code: not at all)."""
        scale = self.guidance.at(mask_share(state.u, self.options.schedule).float())
        z = guided(self.teacher, self.p_phi, state.x_t, c, mask_ratio=state.ratio, scale=scale)
        return state.open(z(None))

    @torch.no_grad()
    def _targets(
        self, state: State, c: Condition, z_phi: Float[Tensor, "B L V"], draws: Draws
    ) -> tuple[Float[Tensor, "B L V"], Int[Tensor, "B N L"]]:
        """qbar and x_hat: the mixture's jump from each x_u, by fresh components, without dropout."""
        o, shape = self.options, (self.options.latents, self.teacher.tokens.length)
        u_drawn, u_hat = (draws.uniform(stream, *shape) for stream in ("drawn", "x_hat"))
        latent = draws.uniform("lambda_target", o.latents)
        self.p_theta.eval()
        qbar, x_hat = torch.zeros_like(z_phi), list[Tensor]()
        for some in self._chunks():
            x_u = self._x_u(state, z_phi / o.teacher_temperature, u_drawn[:, some], some, draws)
            z = state.open(self._logits(x_u, c, latent[:, some], state.ratio_u))
            qbar += z.softmax(-1).sum(1) / o.latents
            x_hat.append(categorical(z, u_hat[:, some]))
        return qbar, torch.cat(x_hat, 1)

    def _x_u(
        self, state: State, z: Float[Tensor, "B L V"], u: Float[Tensor, "B n L"], some: slice, draws: Draws
    ) -> Int[Tensor, "B n L"]:
        """The teacher's step: tokens are drawn at every site, and the best of the masked ones are kept."""
        o, shape = self.options, (self.options.latents, self.teacher.tokens.length)
        drawn = categorical(z[:, None].expand(-1, u.shape[1], -1, -1), u)
        if o.order == "random":
            score = draws.uniform("order", *shape)[:, some]
        else:
            score = z.log_softmax(-1).gather(-1, drawn.transpose(1, 2)).transpose(1, 2)
            if o.gumbel > 0:
                scale = transfer(o.gumbel * gumbel_scale(state.u, o.teacher_steps).to(z.dtype), z.device)
                score = score + scale[:, None, None] * draws.gumbel("gumbel", *shape)[:, some]
        undecided = state.masked[:, None].expand_as(score)
        chosen = most_certain(score, undecided, state.counts[:, None].expand(score.shape[:2]))
        return completed(state.x_t, drawn, chosen)

    def _z_theta(
        self, state: State, c: Condition, latent: Float[Tensor, "B N"], some: slice, draws: Draws
    ) -> Float[Tensor, "B n L V"]:
        """The trained pass: some components at x_t; called again, it has the same dropout."""
        some_latents = latent[:, some]
        x = state.x_t[:, None].expand(-1, some_latents.shape[1], -1)
        if not self.options.dropout:
            return state.open(self._logits(x, c, some_latents, state.ratio))
        with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
            key = (draws.seed, draws.step, draws.phase, "dropout", draws.start, some.start)
            torch.manual_seed(stream_seed(*key))
            return state.open(self._logits(x, c, some_latents, state.ratio))

    def _logits(
        self, x: Int[Tensor, "B n L"], c: Condition, latent: Float[Tensor, "B n"], ratio: Float[Tensor, " B"]
    ) -> Float[Tensor, "B n L V"]:
        """z_theta of the components, at each one's tokens."""
        image = torch.arange(len(x), device=x.device).repeat_interleave(x.shape[1])
        hidden = self.p_theta.component(
            x.flatten(0, 1), conditions.index(c, image), latent.flatten(), mask_ratio=ratio[image]
        )
        z: Tensor = full(self.p_theta.head(hidden)).unflatten(0, x.shape[:2])
        return z

    @staticmethod
    def _logs(found: Terms, w: Weights, total: int) -> dict[str, Tensor]:
        """The loss and its three parts, and the control variates: shares of means over the global batch."""
        parts = {f"{name}_loss": value.sum() / total for name, value in found.weighted(w).items()}
        cv = {"data_cv": found.data_cv, "consistency_cv": found.consistency_cv}
        loss = torch.stack([*parts.values()]).sum()
        return {"loss": loss, **parts, **{name: -value.sum() / total for name, value in cv.items()}}
