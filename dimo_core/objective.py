"""``Objective``: what is trained, in which phases.

The engine knows only this: an objective has parts (modules with an optimiser), and a step is a
sequence of phases. Each phase accumulates gradients into the parts that it names; the engine zeroes,
accumulates over micro-batches, reduces over processes, checks, clips, steps and averages.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import attrs
from attrs import validators as v
from torch import Tensor, nn

from dimo_core.auxiliary import AuxiliaryOptions
from dimo_core.conditions import Condition
from dimo_core.divergence import Divergence
from dimo_core.draws import Draws
from dimo_core.errors import PluginError
from dimo_core.generator import GeneratorOptions
from dimo_core.guidance import Guidance
from dimo_core.teacher import Teacher

Stream = Literal["conditions", "data"]
Use = Literal["auxiliary", "divergence", "guidance"]

_POSITIVE_OR_NONE: Any = v.optional(v.gt(0))


@attrs.frozen(kw_only=True)
class Optimisation:
    """How one part is optimised: Adam with decoupled weight decay, and a moving average.

    Attributes:
        optimizer: adamw, torch's; or adamw-8bit, torchao's, whose moments take 1 byte each instead of 4, for
            one process (pip install "dimo[8bit]").
        lr: Peak learning rate.
        warmup: Steps of linear warm-up to ``lr``.
        decay: What follows the warm-up: constant, or cosine or linear down to ``lr_end`` of the peak.
        lr_end: Share of the peak learning rate that the last step is taken with.
        beta1: Adam's first moment decay.
        beta2: Adam's second moment decay.
        eps: Adam's epsilon, the same for every precision.
        weight_decay: Decoupled weight decay of weight matrices and kernels: parameters of two axes or more
            that their module calls ``weight`` or ``kernel`` (also ``in_proj_weight``), unless it is an
            embedding table or a normalisation (``Norm`` is in the name of its class). All else has none:
            biases, and what a module holds under names of its own, such as positions, mask tokens and
            scales. What several modules share is decayed if each says so: no head tied to an embedding is.
        clip: Largest gradient norm, for every precision; null for none.
        ema: Decay of the moving average of the weights; at step k it is min(ema, (1 + k) / (10 + k)). 0 for
            none.
        ema_device: Where the average lives: device for that of the weights, or cpu.
    """

    optimizer: Literal["adamw", "adamw-8bit"] = "adamw"
    lr: float = attrs.field(default=1e-4, validator=v.gt(0))
    warmup: int = attrs.field(default=100, validator=v.ge(0))
    decay: Literal["constant", "cosine", "linear"] = "constant"
    lr_end: float = attrs.field(default=0.0, validator=[v.ge(0), v.le(1)])
    beta1: float = attrs.field(default=0.9, validator=[v.ge(0), v.lt(1)])
    beta2: float = attrs.field(default=0.999, validator=[v.ge(0), v.lt(1)])
    eps: float = attrs.field(default=1e-8, validator=v.gt(0))
    weight_decay: float = attrs.field(default=0.0, validator=v.ge(0))
    clip: float | None = attrs.field(default=1.0, validator=_POSITIVE_OR_NONE)
    ema: float = attrs.field(default=0.0, validator=[v.ge(0), v.lt(1)])
    ema_device: Literal["device", "cpu"] = "device"


@attrs.frozen(kw_only=True, eq=False)
class Part:
    """A trained module.

    Attributes:
        module: Its parameters with ``requires_grad`` are trained; the flag never changes after building.
        optimisation: How.
    """

    module: nn.Module
    optimisation: Optimisation


@attrs.frozen(kw_only=True)
class Succession:
    """How a frozen module takes over what a part has learnt.

    Attributes:
        part: Name of the part; its module has the same tensors.
        every: Steps between.
        averaged: Whether the averaged weights are taken.
    """

    part: str
    every: int
    averaged: bool = False


@attrs.frozen(kw_only=True, eq=False)
class Batch:
    """One micro-batch on the training device.

    Attributes:
        conditions: Encoded conditions, leading axis B.
        tokens: Clean tokens x_0, ``[B, L]``, that have these conditions, where a phase is fed with data.
        rows: Numbers of these examples in the data, likewise.
        valid: Of the *global* batch, the sites that conditions do not give, ``[N, L]`` on the CPU: only these
            are masked, drawn and counted; what a phase divides by hangs on all of them. None for all sites.
    """

    conditions: Condition
    tokens: Tensor | None = None
    rows: Tensor | None = None
    valid: Tensor | None = None

    @property
    def x_0(self) -> Tensor:
        """The tokens, for a phase that is fed with data.

        Raises:
            ValueError: where there are conditions alone.
        """
        if self.tokens is None:
            raise ValueError("this phase is fed with data, and its batch has conditions alone")
        return self.tokens


def add_to(sums: dict[str, Tensor], more: Mapping[str, Tensor]) -> None:
    """Add scalars by name, such as those of a micro-batch to those of the batch."""
    for name, value in more.items():
        sums[name] = sums[name] + value if name in sums else value


class Phase(ABC):
    """One update: which parts it trains, and their gradient.

    Attributes:
        name: Keys its random draws and its log lines.
        parts: Names of the parts whose gradients it accumulates.
        stream: What its batches are read from; None where its objective needs one stream.
    """

    name: str
    parts: tuple[str, ...]
    stream: Stream | None = None

    @abstractmethod
    def accumulate(self, batch: Batch, draws: Draws, *, watch: bool = False) -> Mapping[str, Tensor]:
        """Run forward and backward on a micro-batch, adding its share of the global batch's gradient.

        Divide sums by ``draws.total``, or by counts taken from ``draws.whole()``, never by the micro-batch:
        then accumulated and distributed gradients equal those of one large batch.

        Args:
            batch: The micro-batch.
            draws: Its random numbers.
            watch: True on steps that are logged: return what is costly to compute, too.

        Returns:
            Losses, by names that end in ``loss``: an update with one that is not finite is not made. And
            other scalars for the log. All are detached tensors; the engine sums them over micro-batches and
            processes, so each is this micro-batch's share of a global mean.
        """


class Objective(ABC):
    """Parts and phases, bound to the models they train."""

    @abstractmethod
    def parts(self) -> Mapping[str, Part]:
        """The trained parts by name."""

    @abstractmethod
    def phases(self) -> Sequence[Phase]:
        """The phases of one step, in order."""

    def frozen(self) -> Mapping[str, nn.Module]:
        """Modules that are used but not trained, to be moved to the device."""
        return {}

    def successions(self) -> Mapping[str, Succession]:
        """Frozen modules, by name, that take over a part's weights on the way; checkpoints hold them too."""
        return {}


def streams(phases: Sequence[Phase], fed: Collection[Stream]) -> list[Stream]:
    """The stream of each phase, among those that are fed.

    Raises:
        PluginError: when a phase does not say which of several it is, or there is no such stream.
    """
    only = next(iter(fed)) if len(fed) == 1 else None
    chosen = [phase.stream or only for phase in phases]
    for phase, stream in zip(phases, chosen, strict=True):
        if stream not in fed:
            raise PluginError(
                f"phase {phase.name!r} reads from {stream!r}, and its objective needs "
                f"{' and '.join(map(repr, sorted(fed)))}: set Phase.stream to one of what it needs"
            )
    return [stream for stream in chosen if stream is not None]


@attrs.frozen(kw_only=True, eq=False)
class Ingredients:
    """What an objective may be made of; the commands and ``distill`` fill it from the chosen plugins.

    Attributes:
        teacher: The teacher.
        generator: Options of the generator, when one is trained.
        auxiliary: Options of the auxiliary, when one is trained.
        divergence: The divergence.
        guidance: Guidance of the teacher within the objective.
        skeleton: True builds all modules without reading weights (``--dry-run``).
    """

    teacher: Teacher
    generator: GeneratorOptions | None = None
    auxiliary: AuxiliaryOptions | None = None
    divergence: Divergence | None = None
    guidance: Guidance | None = None
    skeleton: bool = False


class ObjectiveOptions(ABC):
    """Options of an objective; a frozen attrs class with one field an option.

    ``needs`` names the streams that its batches are fed from, and ``uses`` the kinds of plugins that it makes
    something of, besides teacher and generator: `dimo run` refuses others where they are asked for.
    """

    needs: ClassVar[frozenset[Stream]] = frozenset({"conditions"})
    uses: ClassVar[frozenset[Use]] = frozenset(get_args(Use))

    @abstractmethod
    def build(self, ingredients: Ingredients) -> Objective:
        """Build parts and phases."""
