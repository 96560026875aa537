"""``Generator`` (p_theta): one or a few forward passes from x_init to tokens."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dimo_core.backbone import Backbone, Rows
from dimo_core.conditions import Condition
from dimo_core.draws import Draws, categorical
from dimo_core.errors import UsageError
from dimo_core.teacher import Teacher
from dimo_core.tokens import Tokens, TokenSpace


@attrs.frozen(kw_only=True, eq=False)
class Rollout:
    """What one generation leaves behind.

    Attributes:
        x_init: The input tokens.
        hidden: Hidden states of the last step, with their graph.
        u: The uniform numbers with which ``categorical`` draws x_theta from z_theta.
        decided: Sites whose tokens in x_init are final already: x_theta has the same there, and z_theta
            learns nothing. None for no site.
    """

    x_init: Tokens
    hidden: Float[Tensor, "B L D"]
    u: Float[Tensor, "B L"]
    decided: Bool[Tensor, "B L"] | None = None

    def open(self, rows: Rows) -> Float[Tensor, " K"]:
        """1 at flat rows where x_theta is drawn, 0 where it was decided before."""
        if self.decided is None:
            return torch.ones(len(rows), device=rows.device)
        return 1 - self.decided.flatten()[rows].float()

    def x_theta(self, z_theta: Float[Tensor, "K V"], rows: Rows) -> Int[Tensor, " K"]:
        """x_theta ~ softmax(z_theta) at flat rows, or what was decided there."""
        drawn = categorical(z_theta.detach(), self.u.flatten()[rows])
        if self.decided is None:
            return drawn
        return torch.where(self.decided.flatten()[rows], self.x_init.flatten()[rows], drawn)

    def settled(self, z_theta: Float[Tensor, "K V"], rows: Rows) -> Float[Tensor, "K V"]:
        """z_theta at flat rows without its graph; -inf for all other codes where a token was decided."""
        if self.decided is None:
            return z_theta.detach()
        others = torch.ones_like(z_theta, dtype=torch.bool)
        token = self.x_init.flatten()[rows].clamp(max=z_theta.shape[-1] - 1)
        others.scatter_(-1, token[:, None], False)
        return z_theta.detach().masked_fill(others & self.decided.flatten()[rows, None], -torch.inf)


class Generator(nn.Module, ABC):
    """The generator: a backbone, its initial distribution and its way of sampling in one or a few passes.

    Attributes:
        space: The token space, that of the teacher.
        backbone: The trained network.
        passes: Forward passes that ``sample`` takes.
    """

    space: TokenSpace
    backbone: Backbone
    passes: int = 1

    @property
    def steps(self) -> int:
        """Steps that a sample is made in: fewer than its passes where guidance takes two of them for one."""
        return self.passes

    @abstractmethod
    def initial_tokens(self, draws: Draws) -> Tokens:
        """x_init, the tokens that generation starts from, ``[B, L]``."""

    @abstractmethod
    def forward(self, x_init: Tokens, c: Condition, draws: Draws) -> Float[Tensor, "B L D"]:
        """Hidden states from x_init, with the embedding noise of the method."""

    def denoise(
        self, x_t: Tokens, c: Condition, draws: Draws, *, mask_ratio: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L D"]:
        """Hidden states from a partly masked state that is no x_init, such as re-masked data.

        The default is the backbone's pass. A generator with randomness of its own takes it from ``draws``.
        """
        hidden: Tensor = self.backbone(x_t, c, mask_ratio=mask_ratio)
        return hidden

    @property
    def gathers(self) -> bool:
        """Whether ``head`` takes hidden states of the rows alone, as ``Backbone.gathers`` says."""
        return self.backbone.gathers

    def head(self, hidden: Float[Tensor, "... D"], rows: Rows | None = None) -> Float[Tensor, "... V"]:
        """z_theta from hidden states, at all sites or at flat rows."""
        return self.backbone.head(hidden, rows)

    @abstractmethod
    def rollout(self, c: Condition, draws: Draws) -> Rollout:
        """x_init, hidden states, and what x_theta ~ softmax(z_theta) is drawn with, in training.

        The step draws the tokens where and when it needs them, so that the head sees no site twice.
        """

    @abstractmethod
    def sample(self, c: Condition, draws: Draws) -> Tokens:
        """Samples in ``passes`` forward passes, with the sampling temperature and filters, ``[B, L]``."""

    @abstractmethod
    def sampling(self) -> Mapping[str, Any]:
        """The options that sampling must repeat: r_init, sigma_init, temperature and so on."""

    def merged(self, teacher: Teacher) -> tuple[str, "Generator"]:
        """Registry name and module of a generator that draws the same and holds all of its weights itself.

        For generators that save a part of their network and take the rest from the teacher.

        Args:
            teacher: The teacher that it was built with.

        Raises:
            UsageError: when its weights are whole already.
        """
        raise UsageError(
            f"{type(self).__name__} holds all of its weights already, and nothing is to be merged: its "
            "folder can be used as it is."
        )


class GeneratorOptions(ABC):
    """Options of a generator; a frozen attrs class with one field an option.

    Where presets set options of the generator ``suggested_as``, those that this one has too are set as well.
    """

    suggested_as: ClassVar[str] = ""

    @property
    def passes(self) -> int:
        """Forward passes that its generator takes for a sample."""
        return 1

    @property
    def steps(self) -> int:
        """Steps that its generator takes for a sample."""
        return self.passes

    def with_steps(self, steps: int) -> "GeneratorOptions":
        """These options for samples in so many steps: the option ``steps``, where there is one.

        Raises:
            UsageError: where there is none, for another number than the generator has.
        """
        if steps == self.steps:
            return self
        if steps < 1:
            raise UsageError(f"a generator takes 1 step at least, got {steps}")
        own: Any = self
        if "steps" not in attrs.fields_dict(type(own)):
            raise UsageError(
                f"{steps} steps are asked for, and a generator of the class {type(self).__name__} always "
                f"takes {self.steps}: it has no option 'steps'. Leave the number of steps out."
            )
        made: GeneratorOptions = attrs.evolve(own, steps=steps)
        return made

    @abstractmethod
    def build(self, teacher: Teacher, *, skeleton: bool = False) -> Generator:
        """A generator that starts as a copy of the teacher.

        Args:
            teacher: Whose weights to start from.
            skeleton: True builds the modules without reading weights.
        """

    def frame(self, teacher: Teacher) -> Generator:
        """The generator before its saved tensors, ``backbone.state_dict()``, are read into it.

        The default reads no weights, and will do where all of the network is saved. Where a part of it is
        the teacher's, that part is here already.
        """
        return self.build(teacher, skeleton=True)


def filtered(
    logits: Float[Tensor, "*B V"], temperature: float, top_k: int, top_p: float
) -> Float[Tensor, "*B V"]:
    """Logits for sampling: divided by the temperature, then top-k, then top-p; others become -inf.

    Top-p keeps a token while the mass *before* it is at most ``top_p``, so the likeliest always stays.

    Args:
        logits: ``[..., V]``.
        temperature: Divides the logits.
        top_k: Keep the k largest; 0 keeps all.
        top_p: Keep the nucleus of this mass; 1 keeps all.
    """
    logits = logits.float() / temperature if logits.dtype != torch.float64 else logits / temperature
    if 0 < top_k < logits.shape[-1]:
        kth = logits.topk(top_k, -1).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p < 1:
        ordered, order = logits.sort(-1, descending=True)
        p = ordered.softmax(-1)
        drop = p.cumsum(-1) - p > top_p
        logits = logits.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), -torch.inf)
    return logits
