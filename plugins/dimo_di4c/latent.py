"""The latent of the mixture: one number for each sample and pass, which the network sees as a further token.

A masked diffusion model draws all sites of a step independently. Di4C's student is a mixture of such models,
p(x_0 | x_t) = E over lambda ~ U[0, 1] of prod_d p^d(x_0^d | x_t, lambda), in which sites may depend on each
other through lambda.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dimo_core.backbone import Backbone, Rows
from dimo_core.conditions import Condition
from dimo_core.errors import UsageError
from dimo_core.tokens import Tokens

INNER = "network."
"""Where a mixture holds the teacher's network; saved names are without it, as in the published file."""


def features(latent: Float[Tensor, "*B"], count: int) -> Float[Tensor, "*B {count}"]:
    """Sines, then cosines of 1000 lambda exp(-k ln 10000 / (count // 2 - 1)); an odd count ends with a zero.

    In fp32 at least: steps of 1000 lambda would be as large as 4 in half precision.
    """
    latent = latent if latent.dtype == torch.float64 else latent.float()
    half = count // 2
    k = torch.arange(half, dtype=latent.dtype, device=latent.device)
    angle = 1000 * latent[..., None] * (-k * math.log(10000) / (half - 1)).exp()
    both = [angle.sin(), angle.cos(), *[torch.zeros_like(latent[..., None])] * (count % 2)]
    return torch.cat(both, -1)


class LatentProjection(nn.Sequential):
    """lambda to a token: its features through a linear map, GELU and another linear map.

    Args:
        count: Features F; the hidden layer is 4 F wide.
        width: Width of a token.
    """

    def __init__(self, count: int, width: int) -> None:
        first, last = nn.Linear(count, 4 * count), nn.Linear(4 * count, width)
        super().__init__(first, nn.GELU(), last)
        self.count = count

    def forward(self, latent: Float[Tensor, " B"]) -> Float[Tensor, "B 1 E"]:
        """One token a sample."""
        h = features(latent, self.count).to(next(self.parameters()).dtype)
        for layer in self:
            h = layer(h)
        return h[:, None]


class MixtureBackbone(Backbone):
    """A teacher's network that is told lambda by a further token; without lambda it is that network.

    Args:
        network: The teacher's network.
        count: Features of lambda.
        seed: Seed of the weights that the projection of lambda starts with (torch's own for linear maps).

    Raises:
        UsageError: when the network takes no further tokens.
    """

    def __init__(self, network: Backbone, count: int, seed: int) -> None:
        super().__init__()
        if not network.takes_extra:
            raise UsageError(
                f"the network {type(network).__name__} takes no further token (Backbone.takes_extra), so it "
                "can be told no latent. Choose another teacher, or a generator without one."
            )
        self.network = network
        here = next(network.parameters()).device
        width = network.embed(torch.zeros(1, 1, dtype=torch.long, device=here)).shape[-1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.latent_projection = LatentProjection(count, width)
        self.register_state_dict_post_hook(_saved)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_loaded)  # type: ignore[no-untyped-call]

    @property
    def gathers(self) -> bool:  # type: ignore[override]  # of the network
        """As the network does."""
        return self.network.gathers

    def embed(self, x: Tokens | Float[Tensor, "B L V"]) -> Float[Tensor, "B L E"]:
        """The network's."""
        return self.network.embed(x)

    def forward(
        self,
        x: Tokens | Float[Tensor, "B L E"],
        c: Condition,
        *,
        mask_ratio: Float[Tensor, " B"],
        latent: Float[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """Hidden states of the component lambda.

        Args:
            x: As for the network.
            c: As for the network.
            mask_ratio: As for the network.
            latent: lambda of each sample; None computes what the network computes by itself.
        """
        told: dict[str, Any] = {} if latent is None else {"extra": self.latent_projection(latent)}
        hidden: Tensor = self.network(x, c, mask_ratio=mask_ratio, **told)
        return hidden

    def head(self, hidden: Float[Tensor, "... D"], rows: Rows | None = None) -> Float[Tensor, "... V"]:
        """The network's."""
        return self.network.head(hidden, rows)


class Component(Backbone):
    """A view of a mixture: its network at the lambdas of a batch, repeated where the batch is.

    Args:
        mixture: The mixture.
        latent: lambda of each sample.
    """

    def __init__(self, mixture: MixtureBackbone, latent: Float[Tensor, " B"]) -> None:
        super().__init__()
        self.mixture, self.latent = mixture, latent

    def embed(self, x: Tokens | Float[Tensor, "B L V"]) -> Float[Tensor, "B L E"]:
        """The network's."""
        return self.mixture.embed(x)

    def forward(
        self, x: Tokens | Float[Tensor, "B L E"], c: Condition, *, mask_ratio: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L D"]:
        """Hidden states; the two halves of a guided batch have the same lambdas."""
        latent = self.latent.repeat(len(x) // len(self.latent))
        hidden: Tensor = self.mixture(x, c, mask_ratio=mask_ratio, latent=latent)
        return hidden

    def head(self, hidden: Float[Tensor, "... D"], rows: Rows | None = None) -> Float[Tensor, "... V"]:
        """The network's."""
        return self.mixture.head(hidden, rows)


def _saved(_: nn.Module, state: dict[str, Tensor], prefix: str, __: Any) -> None:
    for name in [name for name in state if name.startswith(prefix + INNER)]:
        state[prefix + name.removeprefix(prefix + INNER)] = state.pop(name)


def _loaded(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    for name in module.get_submodule("network").state_dict():
        if prefix + name in state:
            state[prefix + INNER + name] = state.pop(prefix + name)
