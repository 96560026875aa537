"""``imdm``: a generator whose masks carry noise: one state has many completions (arXiv 2605.10518)."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, TypeVar

import attrs
import torch
from attrs import validators as v
from jaxtyping import Float
from torch import Tensor, nn

from dimo_core.backbone import Backbone, Rows
from dimo_core.conditions import Condition
from dimo_core.draws import Draws
from dimo_core.method.few_step import FewStep, FewStepGenerator, State
from dimo_core.teacher import Teacher
from dimo_core.tokens import Tokens

SPREAD, CUT = 0.02, 2.0
"""Standard deviation of the first map's initial weights, and where it is cut, in standard deviations."""


class NoisyMasks(Backbone):
    """A network beside what makes noise of masks: e = E[x] + 1[x = M] W_2 gelu(W_1 eps + b_1).

    W_2 starts as zero, so that the network starts as the one inside.

    Args:
        network: The network inside.
        noise: n, numbers of noise at a site.
        width: E, width of its embeddings.
        seed: Seed of W_1.
    """

    def __init__(self, network: Backbone, noise: int, width: int, seed: int) -> None:
        super().__init__()
        self.network, self.gathers = network, network.gathers  # type: ignore[misc]
        self.imdm_mlp = nn.Sequential(
            nn.Linear(noise, 4 * width), nn.GELU(), nn.Linear(4 * width, width, bias=False)
        )
        first: Any = self.imdm_mlp[0]
        if not first.weight.is_meta:
            random = torch.Generator().manual_seed(seed)
            nn.init.trunc_normal_(first.weight, std=SPREAD, a=-CUT * SPREAD, b=CUT * SPREAD, generator=random)
        nn.init.zeros_(first.bias)
        nn.init.zeros_(self.imdm_mlp[2].weight)  # type: ignore[arg-type]

    def embed(self, x: Tokens | Float[Tensor, "B L V"]) -> Float[Tensor, "B L E"]:
        """Embeddings without noise."""
        return self.network.embed(x)

    def noisy(
        self, e: Float[Tensor, "B L E"], x: Tokens, eps: Float[Tensor, "B L n"], mask_id: int
    ) -> Float[Tensor, "B L E"]:
        """Embeddings e of x, with noise where it is masked."""
        added: Tensor = self.imdm_mlp(eps.to(e.dtype))
        return torch.where((x == mask_id)[..., None], e + added, e)

    def forward(
        self, x: Tokens | Float[Tensor, "B L E"], c: Condition, *, mask_ratio: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L D"]:
        """Hidden states of the network inside."""
        hidden: Tensor = self.network(x, c, mask_ratio=mask_ratio)
        return hidden

    def head(self, hidden: Float[Tensor, "... D"], rows: Rows | None = None) -> Float[Tensor, "... V"]:
        """Its logits."""
        return self.network.head(hidden, rows)


Share = TypeVar("Share", float, Tensor)


@attrs.frozen(kw_only=True)
class Imdm(FewStep):
    """Generator of k steps whose masked sites carry noise through a small network that is trained with it.

    Di[M]O's ``sigma_init`` is the case of noise that goes through no network.

    Attributes:
        noise: n, numbers of noise at a site.
        noise_seed: Seed of the first map's initial weights.
        resets: Between passes, of training and of sampling, a site that stays masked is given fresh noise
            with the posterior's probability, as in the released sampler; false keeps a sample's noise in all
            of its passes.
    """

    suggested_as: ClassVar[str] = "one_step"

    sigma_init: float = attrs.field(default=0.0, validator=[v.ge(0), v.le(1)])
    noise: int = attrs.field(default=64, validator=v.ge(1))
    noise_seed: int = attrs.field(default=0, validator=v.ge(0))
    resets: bool = False

    def build(self, teacher: Teacher, *, skeleton: bool = False) -> "ImdmGenerator":
        """A generator that starts exactly as the teacher, or as what ``init`` holds.

        Raises:
            CheckpointError: when ``init`` holds no generator of this shape.
        """
        from dimo_core.files.generator_folder import load_weights

        bare = attrs.evolve(self, init=None)
        network = FewStep.build(bare, teacher, skeleton=skeleton).backbone
        width = _width(teacher)
        whole = NoisyMasks(network, self.noise, width, self.noise_seed)
        if self.init:
            load_weights(self.init, whole, teacher, skeleton=skeleton)
        return ImdmGenerator(self, teacher.tokens, whole)


class ImdmGenerator(FewStepGenerator):
    """z_theta = backbone(embeddings of x, with noise at its masks)."""

    options: Imdm
    backbone: NoisyMasks

    def denoise(
        self, x_t: Tokens, c: Condition, draws: Draws, *, mask_ratio: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L D"]:
        """Hidden states from a state with noise at its masks."""
        return self._denoised(x_t, c, draws, mask_ratio, ())

    def sampling(self) -> Mapping[str, Any]:
        """Those of few steps, and whether noise is reset."""
        return {**super().sampling(), "resets": self.options.resets}

    def _pass(
        self, i: int, state: State, c: Condition, draws: Draws, r_init: float, sigma_init: float
    ) -> Float[Tensor, "B L D"]:
        if i == 0:
            return super()._pass(i, state, c, draws, r_init, sigma_init)
        resets = [self.masked_share(j, state) for j in range(i + 1)] if self.options.resets else []
        return self._denoised(state.x, c, draws, self.masked_share(i, state), resets)

    def _denoised(
        self,
        x: Tokens,
        c: Condition,
        draws: Draws,
        mask_ratio: Float[Tensor, " B"],
        resets: Sequence[Float[Tensor, " B"]],
    ) -> Float[Tensor, "B L D"]:
        e = self._with_noise(self.backbone.embed(x), x, draws, resets)
        hidden: Tensor = self.backbone(e, c, mask_ratio=mask_ratio)
        return hidden

    def _embedded(self, x_init: Tokens, draws: Draws, sigma_init: float) -> Float[Tensor, "B L E"]:
        return self._with_noise(super()._embedded(x_init, draws, sigma_init), x_init, draws)

    def _with_noise(
        self,
        e: Float[Tensor, "B L E"],
        x: Tokens,
        draws: Draws,
        resets: Sequence[Float[Tensor, " B"]] = (),
    ) -> Float[Tensor, "B L E"]:
        """Embeddings with the noise that there is after these shares of masks, with a reset at each."""
        length, n = self.space.length, self.options.noise
        eps = 2 * draws.uniform("imdm", length, n) - 1
        for i, (masked, then) in enumerate(pairwise(resets), 1):
            likely = reset_probability(1 - masked, 1 - then)
            fresh = draws.uniform(f"imdm_reset{i}", length) < likely[:, None]
            eps = torch.where(fresh[..., None], 2 * draws.uniform(f"imdm{i}", length, n) - 1, eps)
        return self.backbone.noisy(e, x, eps, self.space.mask_id)


def reset_probability(before: Share, after: Share) -> Share:
    """1 - alpha_t / alpha_s: how likely a site that stays masked from t to s is to have fresh noise.

    The posterior of a masked site gives (1 - alpha_t / alpha_s)(1 - alpha_s) / (1 - alpha_t) to a mask with
    fresh noise, and (1 - alpha_s) / (1 - alpha_t) to a mask of either kind.

    Args:
        before: alpha_t, the share of sites that are visible at t.
        after: alpha_s, the same at s; above 0.
    """
    return 1 - before / after


def _width(teacher: Teacher) -> int:
    """Width of its embeddings."""
    with torch.device("meta"):
        skeleton = teacher.skeleton()
        x = torch.zeros(1, teacher.tokens.length, dtype=torch.long)
    return skeleton.embed(x).shape[-1]
