"""``imdm``: a generator whose masks carry noise: one state has many completions (arXiv 2605.10518)."""

from typing import Any, ClassVar

import attrs
import torch
from attrs import validators as v
from jaxtyping import Float
from torch import Tensor, nn

from dimo_core.backbone import Backbone, Rows
from dimo_core.conditions import Condition
from dimo_core.draws import Draws
from dimo_core.method import process
from dimo_core.method.few_step import FewStep, FewStepGenerator
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


@attrs.frozen(kw_only=True)
class Imdm(FewStep):
    """Generator of k steps whose masked sites carry noise through a small network that is trained with it.

    A sample keeps its noise in all of its passes. Di[M]O's ``sigma_init`` is the case of noise that goes
    through no network.

    Attributes:
        noise: n, numbers of noise at a site.
        noise_seed: Seed of the first map's initial weights.
    """

    suggested_as: ClassVar[str] = "one_step"

    sigma_init: float = attrs.field(default=0.0, validator=[v.ge(0), v.le(1)])
    noise: int = attrs.field(default=64, validator=v.ge(1))
    noise_seed: int = attrs.field(default=0, validator=v.ge(0))

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
        if self.init and not skeleton:
            load_weights(self.init, whole, teacher)
        return ImdmGenerator(self, teacher.tokens, whole)


class ImdmGenerator(FewStepGenerator):
    """z_theta = backbone(embeddings of x, with noise at its masks)."""

    options: Imdm
    backbone: NoisyMasks

    def denoise(
        self, x_t: Tokens, c: Condition, draws: Draws, *, mask_ratio: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L D"]:
        """Hidden states from a state with noise at its masks."""
        e = self._with_noise(self.backbone.embed(x_t), x_t, draws)
        hidden: Tensor = self.backbone(e, c, mask_ratio=mask_ratio)
        return hidden

    def _hidden(
        self, x_init: Tokens, c: Condition, draws: Draws, r_init: float, sigma_init: float
    ) -> Float[Tensor, "B L D"]:
        e = self.backbone.embed(x_init)
        if sigma_init > 0:
            e = process.perturb(e, sigma_init, draws.normal("eps", *e.shape[1:]))
        ratio = torch.full((len(x_init),), r_init, device=x_init.device)
        hidden: Tensor = self.backbone(self._with_noise(e, x_init, draws), c, mask_ratio=ratio)
        return hidden

    def _with_noise(self, e: Float[Tensor, "B L E"], x: Tokens, draws: Draws) -> Float[Tensor, "B L E"]:
        eps = 2 * draws.uniform("imdm", self.space.length, self.options.noise) - 1
        return self.backbone.noisy(e, x, eps, self.space.mask_id)


def _width(teacher: Teacher) -> int:
    """Width of its embeddings."""
    with torch.device("meta"):
        skeleton = teacher.skeleton()
        x = torch.zeros(1, teacher.tokens.length, dtype=torch.long)
    return skeleton.embed(x).shape[-1]
