"""Pairs of x_init and a sample: cross-entropy on fixed couplings, as ReDi and as a warm start."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
from attrs import validators as v
from jaxtyping import Shaped
from torch import Tensor

from dimo_core.draws import Draws
from dimo_core.errors import UsageError
from dimo_core.generator import Generator
from dimo_core.method.logits import Logits, chunks
from dimo_core.method.losses import denoising_loss
from dimo_core.method.process import valid_rows
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


@attrs.frozen(kw_only=True)
class PairDraws(Draws):
    """The random numbers of some examples, each by its number in the data, whatever the step.

    Attributes:
        rows: Their numbers.
    """

    rows: tuple[int, ...]

    def _drawn(
        self, stream: str, shape: tuple[int, ...], dtype: torch.dtype, fill: Callable[..., Tensor]
    ) -> Shaped[Tensor, "b ..."]:
        """A row for each, from that row of a batch of all."""
        one = [
            Draws(seed=self.seed, phase=self.phase, total=row + 1, start=row, device=self.device)
            for row in self.rows
        ]
        return torch.cat([each._drawn(stream, shape, dtype, fill) for each in one])


@attrs.frozen(kw_only=True)
class Pairs(ObjectiveOptions):
    """The generator learns which sample belongs to which x_init (ReDi, arXiv 2507.15897).

    Example j of the data is paired, for good, with the x_init (and the noise on its embeddings) that the seed
    gives to j, and the generator learns it at all sites::

        1 / (B L)  sum over sites  - log p_theta(x^i | x_init)

    The data are samples of the teacher in many steps: ``--data samples --data.path FOLDER``.

    Attributes:
        pairing: Seed of the couplings.
        label_smoothing: Share of the target spread evenly over the codes.
        dropout: Train with the network's dropout.
        generator: How the generator is optimised.
    """

    needs: ClassVar[frozenset[Stream]] = frozenset({"data"})
    uses: ClassVar[frozenset[Use]] = frozenset()

    pairing: int = attrs.field(default=0, validator=v.ge(0))
    label_smoothing: float = attrs.field(default=0.1, validator=[v.ge(0), v.lt(1)])
    dropout: bool = False
    generator: Optimisation = attrs.field(factory=lambda: Optimisation(lr=1e-4, ema=0.9999))

    def build(self, ingredients: Ingredients) -> "PairsObjective":
        """The generator.

        Raises:
            UsageError: when there is none, or it takes several steps.
        """
        if ingredients.generator is None:
            raise UsageError("the objective 'pairs' needs a generator")
        made = ingredients.generator.build(ingredients.teacher, skeleton=ingredients.skeleton)
        if made.passes > 1:
            raise UsageError(
                f"the objective 'pairs' couples x_init with a sample, and the generator takes {made.passes} "
                "steps. Use --generator one_step, or --generator.steps 1."
            )
        return PairsObjective(self, made.train(self.dropout))


class PairsObjective(Objective):
    """One part, one phase."""

    def __init__(self, options: Pairs, generator: Generator) -> None:
        self.options, self.generator = options, generator

    def parts(self) -> Mapping[str, Part]:
        """``generator``."""
        return {"generator": Part(module=self.generator, optimisation=self.options.generator)}

    def phases(self) -> Sequence[Phase]:
        """``pairs``."""
        return [PairsPhase(self)]


class PairsPhase(Phase):
    """Cross-entropy of samples, given their x_init."""

    name, parts, stream = "pairs", ("generator",), "data"

    def __init__(self, objective: PairsObjective) -> None:
        self.of = objective

    def accumulate(self, batch: Batch, draws: Draws, *, watch: bool = False) -> Mapping[str, Tensor]:
        """The gradient of the mean over all sites of the global batch."""
        of, o, logs = self.of, self.of.options, dict[str, Tensor]()
        pair = self.draws(batch.rows, draws.device)
        rollout = of.generator.rollout(batch.conditions, pair)
        rows = valid_rows(batch.valid, draws)
        rows = torch.arange(batch.x_0.numel(), device=draws.device) if rows is None else rows
        total = draws.total * batch.x_0.shape[1] if batch.valid is None else int(batch.valid.sum())
        x = batch.x_0.flatten()[rows]
        theta = Logits(rollout.hidden, rows, of.generator, learns=True)
        for k in chunks(len(rows), batch.x_0.numel(), of.generator.space.columns):
            smoothing, space = o.label_smoothing, of.generator.space
            loss = denoising_loss(theta(k), x[k], label_smoothing=smoothing, restricted=space.restricted)
            share = loss / total
            share.backward()
            add_to(logs, {"loss": share.detach()})
        theta.backward()
        return logs

    def draws(self, rows: Any, device: torch.device) -> PairDraws:
        """What x_init and the noise of some examples are drawn with."""
        numbers = tuple(rows.tolist())
        seed = self.of.options.pairing
        return PairDraws(seed=seed, phase="pairs", total=len(numbers), rows=numbers, device=device)
