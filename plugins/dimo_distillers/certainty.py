"""The objective ``certainty``: answers of the teacher, learnt until they are certain (dParallel, CAP)."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
import torch.nn.functional as F
from attrs import validators as v
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dimo_core.backbone import Rows, full
from dimo_core.device import transfer, widest
from dimo_core.draws import Draws
from dimo_core.errors import UsageError
from dimo_core.generator import Generator
from dimo_core.method import process
from dimo_core.method.logits import Logits, chunks
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
    add_to,
)

TINY = 1e-12
"""What dParallel adds to a probability before its logarithm; it is in the derivative too."""

_COUNT: Any = v.optional(v.ge(1))


def entropy(z: Float[Tensor, "K V"], temperature: float) -> Float[Tensor, " K"]:
    """- sum p log(p + 1e-12) of each row, p = softmax(z / temperature), in fp32 at least."""
    p = (full(z) / temperature).softmax(-1)
    return -(p * (p + TINY).log()).sum(-1)


def shares(counted: Bool[Tensor, " K"], sample: Int[Tensor, " K"], batch: int) -> Float[Tensor, " K"]:
    """Weights with which a sum over rows is the sum of the means over each sample's counted rows.

    Args:
        counted: Which rows count.
        sample: Whose they are.
        batch: How many samples there are.
    """
    one = counted.to(widest(counted.device))
    each = torch.zeros(batch, dtype=one.dtype, device=one.device).index_add(0, sample, one)
    return one / each.clamp_min(1)[sample]


def certainty_loss(
    z: Float[Tensor, "K V"],
    x: Int[Tensor, " K"],
    w: Float[Tensor, " K"],
    w_sure: Float[Tensor, " K"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Cross-entropy of tokens plus entropies, each row with its weights.

    Args:
        z: Logits.
        x: The tokens.
        w: Weights of the cross-entropies.
        w_sure: Weights of the entropies; 0 where another token than x is the likeliest.
        temperature: Divides the logits in the entropies.
    """
    wrong = F.cross_entropy(full(z), x, reduction="none")
    return (w.to(wrong) * wrong).sum() + (w_sure.to(wrong) * entropy(z, temperature)).sum()


def views(
    valid: Bool[Tensor, "B L"],
    block: int | None,
    which: Float[Tensor, " B"],
    u: Float[Tensor, "B L"],
    ratio: float,
) -> tuple[Bool[Tensor, "B L"], Bool[Tensor, "B L"], Bool[Tensor, "B L"]]:
    """The sites of a block that the first view learns, those of the second, and what comes after the block.

    Where blocks divide the answer, dParallel draws an empty one behind them too, from which nothing is
    learnt; here only blocks with sites are drawn.

    Args:
        valid: The sites of the answer.
        block: Sites of a block, in their order; None for one block of all.
        which: Uniform numbers that choose the block.
        u: Uniform numbers, one a site.
        ratio: Share of the block that the first view learns.
    """
    rank, sites = valid.long().cumsum(1) - 1, valid.sum(1)
    size = sites.clamp_min(1) if block is None else torch.full_like(sites, block)
    blocks = -(-sites // size)
    chosen = (which * blocks).long()[:, None]
    own = rank.div(size[:, None], rounding_mode="floor")
    inside = valid & (own == chosen)
    return inside & (u < ratio), inside & (u >= ratio), valid & (own > chosen)


@attrs.frozen(kw_only=True)
class Certainty(ObjectiveOptions):
    """Certainty-forcing (dParallel, arXiv 2509.26488) on the teacher's own answers.

    A block of the answer is drawn; what comes after it is masked, and what comes before it is seen. Its sites
    are split in two at random: each part is masked and learnt from the other::

        mean over the part of - log p(x)  +  beta  mean over its sites with argmax p = x of  H(softmax(z / T))

    for each sample, the means over the batch. CAP of LLaDA2 has the same loss at ``beta 2, temperature 1``
    on ratios that are drawn. The data are samples of the teacher: ``--data samples --data.path FOLDER``.

    Attributes:
        block: Sites of a block; null takes the whole answer (Dream).
        ratio: Share of a block that the first view learns, each site on its own.
        complement: Learn the other part, too, in a second pass.
        beta: Weight of the entropies (dParallel: 2 with LLaDA, 1 with Dream).
        temperature: Divides the logits in the entropies.
        dropout: Train with the network's dropout.
        generator: How the generator is optimised.
    """

    needs: ClassVar[frozenset[Stream]] = frozenset({"data"})
    uses: ClassVar[frozenset[Use]] = frozenset()

    block: int | None = attrs.field(default=32, validator=_COUNT)
    ratio: float = attrs.field(default=0.5005, validator=[v.gt(0), v.lt(1)])
    complement: bool = True
    beta: float = attrs.field(default=2.0, validator=v.ge(0))
    temperature: float = attrs.field(default=0.5, validator=v.gt(0))
    dropout: bool = False
    generator: Optimisation = attrs.field(factory=lambda: Optimisation(lr=2e-5, weight_decay=0.01))

    def build(self, ingredients: Ingredients) -> "CertaintyObjective":
        """The generator.

        Raises:
            UsageError: when there is none.
        """
        if ingredients.generator is None:
            raise UsageError("the objective 'certainty' needs a generator")
        made = ingredients.generator.build(ingredients.teacher, skeleton=ingredients.skeleton)
        return CertaintyObjective(self, made.train(self.dropout))


class CertaintyObjective(Objective):
    """One part, one phase."""

    def __init__(self, options: Certainty, generator: Generator) -> None:
        self.options, self.p_theta = options, generator

    def parts(self) -> Mapping[str, Part]:
        """``generator``."""
        return {"generator": Part(module=self.p_theta, optimisation=self.options.generator)}

    def phases(self) -> Sequence[Phase]:
        """``certainty``."""
        return [CertaintyPhase(self)]


class CertaintyPhase(Phase):
    """Both views of a micro-batch, one after the other."""

    name, parts, stream = "certainty", ("generator",), "data"

    def __init__(self, objective: CertaintyObjective) -> None:
        self.of = objective

    def accumulate(self, batch: Batch, draws: Draws, *, watch: bool = False) -> Mapping[str, Tensor]:
        """The gradient of the mean over the global batch; the sites are drawn on the CPU."""
        o, space, host, logs = self.of.options, self.of.p_theta.space, draws.host(), dict[str, Tensor]()
        valid = torch.ones(draws.count, space.length, dtype=torch.bool)
        if batch.valid is not None:
            valid = process.of_batch(batch.valid, draws)
        which, u = host.uniform("block"), host.uniform("view", space.length)
        first, second, later = views(valid, o.block, which, u, o.ratio)
        for part in (first, second) if o.complement else (first,):
            self._learn(batch, draws, part, part | later, valid, logs)
        return logs

    def _learn(
        self,
        batch: Batch,
        draws: Draws,
        part: Bool[Tensor, "B L"],
        masked: Bool[Tensor, "B L"],
        valid: Bool[Tensor, "B L"],
        logs: dict[str, Tensor],
    ) -> None:
        """Cross-entropy and certainty of a part, given what is not masked."""
        o, p_theta, device = self.of.options, self.of.p_theta, draws.device
        ratio = transfer(masked.sum(1) / valid.sum(1).clamp_min(1), device)
        x_t = process.apply_mask(batch.x_0, transfer(masked, device), p_theta.space)
        hidden = p_theta.denoise(x_t, batch.conditions, draws, mask_ratio=ratio)
        rows: Rows = transfer(part.flatten().nonzero().squeeze(1), device)
        x, sample = batch.x_0.flatten()[rows], rows.div(part.shape[1], rounding_mode="floor")
        theta = Logits(hidden, rows, p_theta, learns=True)
        runs = chunks(len(rows), part.numel(), p_theta.space.columns)
        with torch.no_grad():
            right = torch.cat([theta(k).argmax(-1) == x[k] for k in runs])
        w = shares(torch.ones_like(right), sample, draws.count) / draws.total
        w_sure = o.beta * shares(right, sample, draws.count) / draws.total
        for k in runs:
            loss = certainty_loss(theta(k), x[k], w[k], w_sure[k], o.temperature)
            loss.backward()
            add_to(logs, {"loss": loss.detach()})
        theta.backward()
        add_to(logs, {"accuracy": (right * w).sum() / (1 + o.complement)})
