"""``Sampler``: multi-step sampling from a teacher."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from attrs import validators as v
from jaxtyping import Bool, Int
from torch import Tensor

from dimo_core import conditions
from dimo_core.backbone import Backbone, Rows
from dimo_core.conditions import Condition
from dimo_core.draws import Draws, PickedDraws
from dimo_core.errors import UnknownNameError, UsageError
from dimo_core.guidance import Guidance
from dimo_core.registry import Registry, built
from dimo_core.suggestions import ASSUMED, Sampling, listing
from dimo_core.teacher import Teacher
from dimo_core.tokens import Tokens, TokenSpace


@attrs.frozen(kw_only=True, eq=False)
class Sampled:
    """Tokens, and what they cost.

    Attributes:
        tokens: ``[B, L]``, no mask left.
        passes: Forward passes a sample took at most, the guidance's second pass counted.
        calls: Forward passes of each sample; None where each took as many.
        trajectory: The tokens after each step, when asked for; else empty.
    """

    tokens: Tokens
    passes: int
    calls: Int[Tensor, " B"] | None = None
    trajectory: tuple[Tokens, ...] = ()

    def each(self) -> Int[Tensor, " B"]:
        """Forward passes of each sample."""
        if self.calls is not None:
            return self.calls
        return torch.full((len(self.tokens),), self.passes, device=self.tokens.device)


class Sampler(ABC):
    """Multi-step sampling from a teacher; a frozen attrs class of its options."""

    @abstractmethod
    def sample(
        self,
        teacher: Teacher,
        network: Backbone,
        c: Condition,
        *,
        steps: int,
        guidance: Guidance,
        draws: Draws,
        keep_trajectory: bool = False,
    ) -> Sampled:
        """Draw one sample for each condition.

        Args:
            teacher: Token space and null condition.
            network: The teacher's network, in eval mode on ``draws.device``; in each step the sampler calls
                ``teacher.at_step(network, step, of)``.
            c: Conditions.
            steps: Number of steps, from 1 up; fewer are taken when nothing is masked any more.
            guidance: Scale by mask ratio and progress.
            draws: Random numbers; its ``count`` is B.
            keep_trajectory: True returns the tokens after each step too.
        """


@attrs.frozen(kw_only=True, eq=False)
class Unknown:
    """Samples before their first step, with equally many sites to decide.

    Attributes:
        x: Masks, and what is given.
        undecided: The masked sites.
        sites: How many there are in each sample.
        c: The conditions.
        draws: Their random numbers.
    """

    x: Tokens
    undecided: Bool[Tensor, "B L"]
    sites: int
    c: Condition
    draws: Draws

    @property
    def rows(self) -> Rows:
        """Flat indices of the masked sites; waits for the device only where something is given."""
        if self.sites == self.x.shape[1]:
            return torch.arange(self.x.numel(), device=self.x.device)
        return self.undecided.flatten().nonzero().squeeze(1)


def by_sites(space: TokenSpace, c: Condition, draws: Draws, sample: Callable[[Unknown], Sampled]) -> Sampled:
    """What a sampler makes of samples with equally many sites to decide, put together.

    A schedule counts the sites that are not given. Where their number differs between the samples of a batch,
    those of one number are sampled together, so that none hangs on its neighbours. ``passes`` is the largest.

    Args:
        space: Says what is given.
        c: Conditions.
        draws: Random numbers; ``count`` is B.
        sample: Samples from masks.
    """
    x = torch.full((draws.count, space.length), space.mask_id, device=draws.device)
    given = space.given(c)
    if given is None:
        everywhere = torch.ones_like(x, dtype=torch.bool)
        return sample(Unknown(x=x, undecided=everywhere, sites=space.length, c=c, draws=draws))
    x, sites = given.put(x), given.valid.sum(1).tolist()
    parts = list[tuple[Tensor, Sampled]]()
    for n in sorted(set(sites)):
        rows = torch.tensor([row for row, own in enumerate(sites) if own == n], device=x.device)
        unknown = Unknown(
            x=x[rows],
            undecided=given.valid[rows],
            sites=n,
            c=conditions.index(c, rows),
            draws=PickedDraws.pick(draws, tuple(rows.tolist())) if len(rows) < len(x) else draws,
        )
        parts.append((rows, sample(unknown) if n else Sampled(tokens=unknown.x, passes=0)))
    calls = torch.zeros(len(x), dtype=torch.long, device=x.device)
    steps = max(len(part.trajectory) for _, part in parts)
    trajectory = [x.clone() for _ in range(steps)]
    for rows, part in parts:
        x[rows], calls[rows] = part.tokens, part.each()
        for i, state in enumerate(trajectory):
            state[rows] = part.trajectory[i] if i < len(part.trajectory) else part.tokens
    passes = max(part.passes for _, part in parts)
    return Sampled(tokens=x, passes=passes, calls=calls, trajectory=tuple(trajectory))


class ScheduledSampler(Sampler):
    """A sampler whose schedule counts sites: it is handed samples with equally many of them to decide."""

    @torch.no_grad()
    def sample(
        self,
        teacher: Teacher,
        network: Backbone,
        c: Condition,
        *,
        steps: int,
        guidance: Guidance,
        draws: Draws,
        keep_trajectory: bool = False,
    ) -> Sampled:
        """``from_masks`` of the samples with each number of sites, put together."""

        def some(start: Unknown) -> Sampled:
            return self.from_masks(
                teacher, network, start, steps=steps, guidance=guidance, keep_trajectory=keep_trajectory
            )

        return by_sites(teacher.tokens, c, draws, some)

    @abstractmethod
    def from_masks(
        self,
        teacher: Teacher,
        network: Backbone,
        start: Unknown,
        *,
        steps: int,
        guidance: Guidance,
        keep_trajectory: bool,
    ) -> Sampled:
        """Draw one sample for each condition of ``start``; the other arguments are those of ``sample``."""


@attrs.frozen(kw_only=True)
class TeacherSampling:
    """One way to sample a teacher, its plugins built.

    Attributes:
        steps: Number of sampling steps, from 1 up; fewer are taken when nothing is masked any more.
        sampler: The multi-step sampler.
        guidance: Its guidance.
        name: Its name among the teacher's samplings; empty for none.
    """

    steps: int = attrs.field(validator=v.ge(1))
    sampler: Sampler
    guidance: Guidance
    name: str = ""

    @classmethod
    def of(cls, sampling: Sampling, registry: Registry, name: str = "", whose: str = "") -> "TeacherSampling":
        """Build what a sampling names.

        Raises:
            UsageError: for an unknown sampler or guidance, or options that they refuse; a ``PluginError``
                where ``whose`` tells what plugin's sampling it is.
        """
        return cls(
            steps=sampling.steps,
            sampler=built(registry, "sampler", sampling.sampler, whose),
            guidance=built(registry, "guidance", sampling.guidance, whose),
            name=name,
        )

    @classmethod
    def named(cls, teacher: Teacher, name: str | None, registry: Registry) -> "TeacherSampling":
        """The teacher's sampling of this name; when None its first one, or else its evaluation's longest.

        Raises:
            UsageError: when there is none of this name.
            PluginError: when it names what does not exist, or cannot be built.
        """
        samplings, whose = teacher.samplings(), f"teacher {type(teacher).__name__}"
        if name is None and not samplings:
            plan = teacher.evaluation() or ASSUMED
            sampler = built(registry, "sampler", plan.sampler, plan.whose(teacher))
            guidance = built(registry, "guidance", plan.guidance, plan.whose(teacher))
            steps = max(plan.steps, default=max(ASSUMED.steps))
            return cls(steps=steps, sampler=sampler, guidance=guidance)
        name = next(iter(samplings), "") if name is None else name
        return cls.of(find(samplings, name, whose), registry, name, f"sampling {name!r} of {whose}")

    @property
    def title(self) -> str:
        """As people read it: ``teacher, 16 steps`` or ``teacher, paper-16 (16 steps)``."""
        count = f"{self.steps} {'step' if self.steps == 1 else 'steps'}"
        return f"teacher, {self.name} ({count})" if self.name else f"teacher, {count}"

    def draw(self, teacher: Teacher, network: Backbone, c: Condition, draws: Draws) -> Sampled:
        """One sample for each condition; the arguments are those of ``Sampler.sample``."""
        return self.sampler.sample(teacher, network, c, steps=self.steps, guidance=self.guidance, draws=draws)

    def as_dict(self) -> dict[str, Any]:
        """Plain data: what makes samples and their numbers comparable."""
        return {
            "sampling": self.name or None,
            "steps": self.steps,
            "sampler": described(self.sampler),
            "guidance": described(self.guidance),
        }


def find(samplings: Mapping[str, Sampling], name: str, whose: str) -> Sampling:
    """The sampling of this name.

    Args:
        samplings: Those of a teacher.
        name: Which.
        whose: The teacher, as people read it.

    Raises:
        UnknownNameError: when there is none; the message lists all with steps and sources.
        UsageError: when the teacher names none.
    """
    if not samplings:
        raise UsageError(
            f"{whose} names no samplings{f', got {name!r}' if name else ''}. "
            "Give steps, sampler and guidance yourself."
        )
    if name not in samplings:
        lines = [f"Samplings of {whose}:", *(f"{key}: {text}" for key, text in listing(samplings).items())]
        raise UnknownNameError("sampling", name, samplings, "\n".join(lines))
    return samplings[name]


def described(plugin: object) -> dict[str, Any]:
    """A plugin's class and all its options."""
    options = attrs.asdict(plugin) if attrs.has(type(plugin)) else {}  # type: ignore[arg-type]
    return {"class": type(plugin).__name__, **options}
