"""The generator ``mixture``: a few steps of the confidence sampler, each with a latent of its own."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Literal

import attrs
import torch
from attrs import validators as v
from jaxtyping import Float
from torch import Tensor

from dimo_core.backbone import Backbone, Rows, full
from dimo_core.conditions import Condition
from dimo_core.device import transfer
from dimo_core.draws import Draws, categorical
from dimo_core.errors import UsageError
from dimo_core.files.generator_folder import load_weights
from dimo_core.files.urls import from_anywhere
from dimo_core.generator import Generator, GeneratorOptions, Rollout
from dimo_core.guidance import guided
from dimo_core.method.logits import chunks
from dimo_core.method.one_step import trainable_copy
from dimo_core.sampler import Sampled, Unknown, by_sites
from dimo_core.teacher import Teacher
from dimo_core.tokens import Tokens
from dimo_di4c.half_step import Schedule, most_certain, tokens_per_step
from dimo_di4c.latent import Component, MixtureBackbone


@attrs.frozen(kw_only=True)
class Mixture(GeneratorOptions):
    """Generator of a few steps whose network sees a latent lambda ~ U[0, 1] (Di4C).

    Attributes:
        steps: Steps of the confidence sampler; the first ones decide few sites, the last one the rest.
        schedule: After step j of k, round(r(j / k) L) tokens are left to decide.
        guidance: Scale s of z_u + s (z_c - z_u) when sampling; 1 is off. (The released code: w = s - 1.)
        ramp: From 1 in the first step linearly to ``guidance`` in the last one; a single step is then not
            guided. False guides every step alike.
        negative: Whose logits z_u are: the generator's own, at the same lambda, or the teacher's (``lfg`` of
            the released code), whose network is then kept in memory too.
        gumbel: Strength of the Gumbel noise on the confidence; it falls linearly to 0 over the steps.
        temperature: Divides the logits when sampling.
        latent_features: Sines and cosines that lambda is made into.
        train_embeddings: Train the parameters that the teacher lists as frozen (its embeddings) too, as the
            released code does.
        seed: Seed of the weights that lambda's projection starts with.
        init: Folder of a trained generator to continue from, or a published weights file (``FILE::key``
            takes the set of weights under that key); null starts from the teacher.
    """

    steps: int = attrs.field(default=4, validator=v.ge(1))
    schedule: Schedule = "arccos"
    guidance: float = attrs.field(default=1.0, validator=v.ge(0))
    ramp: bool = True
    negative: Literal["generator", "teacher"] = "generator"
    gumbel: float = attrs.field(default=4.5, validator=v.ge(0))
    temperature: float = attrs.field(default=1.0, validator=v.gt(0))
    latent_features: int = attrs.field(default=128, validator=v.ge(4))
    train_embeddings: bool = True
    seed: int = attrs.field(default=0, validator=v.ge(0))
    init: str | None = attrs.field(default=None, converter=from_anywhere)

    def scales(self) -> list[float]:
        """The guidance scale of each step."""
        last = max(1, self.steps - 1)
        shares = [i / last if self.ramp else 1.0 for i in range(self.steps)]
        return [1 + (self.guidance - 1) * share for share in shares]

    @property
    def passes(self) -> int:
        """One a step, and a second one where it is guided."""
        return sum(1 + (scale != 1) for scale in self.scales())

    def build(self, teacher: Teacher, *, skeleton: bool = False) -> "MixtureGenerator":
        """A generator with the teacher's weights and a random projection of lambda, or those of ``init``.

        Raises:
            UsageError: when the teacher's network takes no further token, it cannot be guided, or there are
                too many steps for its tokens.
            CheckpointError: when ``init`` holds no generator of this shape.
        """
        tokens_per_step(teacher.tokens.length, self.steps, self.schedule)
        if self.guidance != 1 and "guidance" not in teacher.capabilities:
            raise UsageError(
                f"generator.guidance is {self.guidance:g}, but teacher {type(teacher).__name__} has no null "
                "condition. Use --generator.guidance 1."
            )
        network = trainable_copy(teacher, skeleton=skeleton, train_embeddings=self.train_embeddings)
        backbone = MixtureBackbone(network, self.latent_features, self.seed)
        if self.init:
            load_weights(self.init, backbone, teacher, skeleton=skeleton)
        return MixtureGenerator(self, teacher, backbone)


NOT_SAMPLED = ("train_embeddings", "seed", "init")
"""Options that sampling does not repeat."""


class MixtureGenerator(Generator):
    """z_theta = backbone(x_t, lambda), a component of the mixture for each sample and pass."""

    backbone: MixtureBackbone

    def __init__(self, options: Mixture, teacher: Teacher, backbone: MixtureBackbone) -> None:
        super().__init__()
        self.options, self.space, self.backbone = options, teacher.tokens, backbone
        self.teacher = teacher

    @property
    def passes(self) -> int:  # type: ignore[override]  # of the options
        """As the options say."""
        return self.options.passes

    @property
    def steps(self) -> int:
        """As the options say."""
        return self.options.steps

    def initial_tokens(self, draws: Draws) -> Tokens:
        """Masks only, where nothing is given."""
        return torch.full((draws.count, self.space.length), self.space.mask_id, device=draws.device)

    def forward(self, x_init: Tokens, c: Condition, draws: Draws) -> Float[Tensor, "B L D"]:
        """Hidden states of a component that is drawn for each sample."""
        return self.denoise(x_init, c, draws, mask_ratio=torch.ones(len(x_init), device=x_init.device))

    def denoise(
        self, x_t: Tokens, c: Condition, draws: Draws, *, mask_ratio: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L D"]:
        """The same from a partly masked state."""
        return self.component(x_t, c, draws.uniform("lambda"), mask_ratio=mask_ratio)

    def component(
        self, x_t: Tokens, c: Condition, latent: Float[Tensor, " B"], *, mask_ratio: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L D"]:
        """Hidden states of given components."""
        hidden: Tensor = self.backbone(x_t, c, mask_ratio=mask_ratio, latent=latent)
        return hidden

    def rollout(self, c: Condition, draws: Draws) -> Rollout:
        """One pass from masks only."""
        x_init, given = self.initial_tokens(draws), self.space.given(c)
        x_init = given.put(x_init) if given else x_init
        hidden = self(x_init, c, draws)
        u_theta = draws.uniform("x_theta", self.space.length)
        return Rollout(x_init=x_init, hidden=hidden, u=u_theta, decided=~given.valid if given else None)

    @torch.no_grad()
    def sample(self, c: Condition, draws: Draws) -> Tokens:
        """Masks only, then in each step a draw at every site, of which the most certain few are kept."""
        return by_sites(self.space, c, draws, self._sampled).tokens

    def _sampled(self, start: Unknown) -> Sampled:
        o, length, left, c = self.options, self.space.length, start.sites, start.c
        x, undecided, draws = start.x, start.undecided, start.draws
        counts = tokens_per_step(left, o.steps, o.schedule)
        for i, (count, scale) in enumerate(zip(counts, o.scales(), strict=True)):
            now = attrs.evolve(draws, phase=f"{draws.phase}/{i}")
            z = self._guided(x, c, now.uniform("lambda"), left / start.sites, scale)
            drawn, score = self._drawn(z, x.shape, now)
            if (noise := o.gumbel * (1 - i / max(1, o.steps - 1))) > 0:
                score = score + noise * now.gumbel("gumbel", length)
            decide = most_certain(score, undecided, torch.full((len(x),), count, device=x.device))
            x = torch.where(decide, drawn, x)
            undecided, left = undecided & ~decide, left - count
        return Sampled(tokens=x, passes=o.passes)

    def _guided(
        self, x: Tokens, c: Condition, latent: Float[Tensor, " B"], share: float, scale: float
    ) -> Callable[[Rows], Float[Tensor, "K V"]]:
        """What gives the logits of rows with ``share`` of the tokens masked."""
        ratio, component = torch.full((len(x),), share), Component(self.backbone, latent)
        if scale == 1:
            hidden = component(x, c, mask_ratio=transfer(ratio, x.device))
            return lambda rows: full(self.head(hidden, rows))
        if self.options.negative == "generator":
            scales = torch.full((len(x),), scale)
            ratio = transfer(ratio, x.device)
            return guided(self.teacher, component, x, c, mask_ratio=ratio, scale=scales)
        p_phi, ratio = self._p_phi.to(x.device), transfer(ratio, x.device)
        positive = component(x, c, mask_ratio=ratio)
        negative = p_phi(x, self.teacher.null_condition(c), mask_ratio=ratio)

        def logits(rows: Rows) -> Float[Tensor, "K V"]:
            z_c, z_u = full(self.head(positive, rows)), full(p_phi.head(negative, rows))
            return z_u + scale * (z_c - z_u)

        return logits

    def _drawn(
        self, logits: Callable[[Rows], Tensor], shape: torch.Size, draws: Draws
    ) -> tuple[Tokens, Float[Tensor, "B L"]]:
        """A token for each site and its log-probability; logits of some rows at a time."""
        u, drawn, log_p = draws.uniform("drawn", self.space.length).flatten(), [], []
        sites = torch.arange(len(u), device=u.device)
        for k in chunks(len(sites), len(sites), self.space.columns):
            z = logits(sites[k]) / self.options.temperature
            drawn.append(categorical(z, u[k]))
            log_p.append(z.log_softmax(-1).gather(-1, drawn[-1][:, None]).squeeze(-1))
        return torch.cat(drawn).view(shape), torch.cat(log_p).view(shape)

    @cached_property
    def _p_phi(self) -> Backbone:
        """The teacher's network, which is no part of this module: it is neither trained nor saved."""
        return self.teacher.network(share=True).eval().requires_grad_(False)

    def sampling(self) -> Mapping[str, Any]:
        """The options of this generator, without what only concerns training."""
        names = [field.name for field in attrs.fields(Mixture) if field.name not in NOT_SAMPLED]
        return {name: getattr(self.options, name) for name in names}
