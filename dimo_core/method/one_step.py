"""The paper's generator: masks mixed with random codes, noise on the embeddings, one forward pass."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import attrs
import torch
from attrs import validators as v
from jaxtyping import Float
from torch import Tensor

from dimo_core.backbone import Backbone
from dimo_core.conditions import Condition
from dimo_core.draws import Draws, categorical
from dimo_core.files.urls import from_anywhere
from dimo_core.generator import Generator, GeneratorOptions, Rollout, filtered
from dimo_core.method import process
from dimo_core.method.logits import chunks
from dimo_core.teacher import Teacher
from dimo_core.tokens import Tokens, TokenSpace


@attrs.frozen(kw_only=True)
class OneStepOptions(GeneratorOptions):
    """What every one-step generator with token initialisation is told, whatever of it is trained.

    Attributes:
        r_init: Share of masks in x_init; the other tokens are random codes.
        sigma_init: Strength of the noise on the token embeddings.
        sigma_warmup: Steps over which ``sigma_init`` grows from 0 in training (as the released code can);
            0 for none.
        sigma_shape: How it grows, in s = step / sigma_warmup: s, 1 - exp(-s) (which never ends), or
            (1 - cos(pi s)) / 2.
        sampling_r_init: r_init when sampling a trained generator: more masks give less variety and fewer
            faults; null for that of training. (The authors' text-to-image generator is trained with 0.5 and
            sampled with 0.6.)
        sampling_sigma_init: The same of sigma_init.
        temperature: Divides the logits when sampling a trained generator; training draws at 1.
        top_k: Sample from the k likeliest codes; 0 for all.
        top_p: Sample from the nucleus of this mass; 1 for all.
    """

    r_init: float = attrs.field(default=0.6, validator=[v.ge(0), v.le(1)])
    sigma_init: float = attrs.field(default=0.1, validator=[v.ge(0), v.le(1)])
    sigma_warmup: int = attrs.field(default=0, validator=v.ge(0))
    sigma_shape: Literal["linear", "exp", "cos"] = "linear"
    sampling_r_init: float | None = attrs.field(default=None, validator=v.optional([v.ge(0), v.le(1)]))
    sampling_sigma_init: float | None = attrs.field(default=None, validator=v.optional([v.ge(0), v.le(1)]))
    temperature: float = attrs.field(default=1.0, validator=v.gt(0))
    top_k: int = attrs.field(default=0, validator=v.ge(0))
    top_p: float = attrs.field(default=1.0, validator=[v.gt(0), v.le(1)])

    def sigma(self, step: int) -> float:
        """sigma_init in a step of training."""
        if self.sigma_warmup == 0:
            return self.sigma_init
        s = step / self.sigma_warmup
        match self.sigma_shape:
            case "linear":
                grown = min(1.0, s)
            case "exp":
                grown = 1 - math.exp(-s)
            case "cos":
                grown = (1 - math.cos(math.pi * min(1.0, s))) / 2
        return self.sigma_init * grown

    def sampled_from(self) -> tuple[float, float]:
        """r_init and sigma_init when a trained generator is sampled."""
        r, sigma = self.sampling_r_init, self.sampling_sigma_init
        return self.r_init if r is None else r, self.sigma_init if sigma is None else sigma


@attrs.frozen(kw_only=True)
class OneStep(OneStepOptions):
    """One-step generator with token initialisation (paper, section 3.3); all of its network is its own.

    Attributes:
        train_embeddings: Train the parameters that the teacher lists as frozen (its embeddings) too.
        init: Folder of a trained generator to continue from, or a published weights file or folder of one
            (``FILE::key`` takes the set of weights under that key, such as ema); null starts from the
            teacher.
    """

    train_embeddings: bool = False
    init: str | None = attrs.field(default=None, converter=from_anywhere)

    def build(self, teacher: Teacher, *, skeleton: bool = False) -> "OneStepGenerator":
        """A generator with the teacher's weights, or with those of ``init``.

        Raises:
            CheckpointError: when ``init`` holds no generator of this shape; a skeleton only looks whether
                it is there.
        """
        backbone = trainable_copy(teacher, skeleton=skeleton, train_embeddings=self.train_embeddings)
        if self.init:
            from dimo_core.files.generator_folder import load_weights

            load_weights(self.init, backbone, teacher, skeleton=skeleton)
        return OneStepGenerator(self, teacher.tokens, backbone)


TRAINING = ("sigma_warmup", "sigma_shape")
"""Options that sampling does not repeat."""


class OneStepGenerator(Generator):
    """z_theta = backbone(noisy embeddings of x_init)."""

    def __init__(self, options: OneStepOptions, space: TokenSpace, backbone: Backbone) -> None:
        super().__init__()
        self.options, self.space, self.backbone = options, space, backbone

    def initial_tokens(self, draws: Draws) -> Tokens:
        """Exactly round(r_init L) masks among random codes, where nothing is given."""
        return process.initial_tokens(self.space, self.options.r_init, draws)

    def forward(self, x_init: Tokens, c: Condition, draws: Draws) -> Float[Tensor, "B L D"]:
        """Hidden states from the perturbed embeddings of x_init."""
        return self._hidden(x_init, c, draws, self.options.r_init, self.options.sigma(draws.step))

    def rollout(self, c: Condition, draws: Draws) -> Rollout:
        """One pass; x_theta ~ softmax(z_theta) at temperature 1, at every site that is not given."""
        given = self.space.given(c)
        x_init = process.initial_tokens(self.space, self.options.r_init, draws, given)
        hidden = self(x_init, c, draws)
        u_theta = draws.uniform("x_theta", self.space.length)
        return Rollout(x_init=x_init, hidden=hidden, u=u_theta, decided=~given.valid if given else None)

    @torch.no_grad()
    def sample(self, c: Condition, draws: Draws) -> Tokens:
        """One forward pass, then a draw with the sampling temperature and filters."""
        o = self.options
        (r_init, sigma_init), given = o.sampled_from(), self.space.given(c)
        x_init = process.initial_tokens(self.space, r_init, draws, given)
        hidden = self._hidden(x_init, c, draws, r_init, sigma_init)
        x = self._drawn(hidden, draws, lambda z: filtered(z, o.temperature, o.top_k, o.top_p))
        return given.put(x) if given else x

    def _hidden(
        self, x_init: Tokens, c: Condition, draws: Draws, r_init: float, sigma_init: float
    ) -> Float[Tensor, "B L D"]:
        e = self._embedded(x_init, draws, sigma_init)
        # To the network x_init looks like a sample with r_init of its tokens masked.
        ratio = torch.full((len(x_init),), r_init, device=x_init.device)
        hidden: Tensor = self.backbone(e, c, mask_ratio=ratio)
        return hidden

    def _embedded(self, x_init: Tokens, draws: Draws, sigma_init: float) -> Float[Tensor, "B L E"]:
        """Embeddings of x_init with their noise."""
        e = self.backbone.embed(x_init)
        return process.perturb(e, sigma_init, draws.normal("eps", *e.shape[1:])) if sigma_init > 0 else e

    def _drawn(
        self,
        hidden: Float[Tensor, "B L D"],
        draws: Draws,
        change: Callable[[Tensor], Tensor],
        stream: str = "x_theta",
    ) -> Tokens:
        """A token for each site, from logits that ``change`` filters."""
        u = draws.uniform(stream, self.space.length)
        sites = torch.arange(u.numel(), device=u.device)
        runs = chunks(len(sites), len(sites), self.space.columns)
        drawn = [categorical(change(self.head(hidden, sites[k])), u.flatten()[k]) for k in runs]
        return torch.cat(drawn).view_as(u)

    def sampling(self) -> Mapping[str, Any]:
        """The options of this generator, without what only concerns training."""
        names = [field.name for field in attrs.fields(OneStepOptions) if field.name not in TRAINING]
        return {name: getattr(self.options, name) for name in names}


def trainable_copy(teacher: Teacher, *, skeleton: bool, train_embeddings: bool) -> Backbone:
    """The teacher's network as a network to train, its frozen parameters fixed for good."""
    backbone = teacher.skeleton() if skeleton else teacher.network()
    frozen = () if train_embeddings else teacher.frozen_parameters()
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return backbone
