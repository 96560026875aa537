"""What a teacher's samplers and a trained generator draw, as laws, one for each condition."""

from collections.abc import Callable
from functools import cache

import attrs
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from dimo_core.backbone import inference
from dimo_core.draws import Draws
from dimo_core.generator import Generator
from dimo_core.guidance import Constant
from dimo_core.method.few_step import FewStepGenerator, decided_per_pass
from dimo_core.method.one_step import OneStepGenerator
from dimo_core.sampler import Sampler
from dimo_core.tokens import TokenSpace
from dimo_gym import laws
from dimo_gym.distances import histogram_tv
from dimo_gym.joints import CONDITIONS
from dimo_gym.networks import OneHot
from dimo_gym.partial import places, states
from dimo_gym.teacher import GymTeacher

TRACED, BLOCKS = 2**14, 16
"""Samples of a condition that are followed up to their last pass, and parts from which the error is found."""

SAMPLES = 2**17
"""Samples of a condition, where a law can only be estimated by counting."""


@attrs.frozen(kw_only=True, eq=False)
class Law:
    """What is drawn under each condition.

    Attributes:
        q: ``[C, V^L]``.
        error: None for an exact law; else the largest error to expect of its total variation.
        how: exact, traced (a mean over draws of all but the last pass) or counted (a histogram of samples).
    """

    q: Float[Tensor, "C N"]
    error: float | None = None
    how: str = "exact"


def table_of(teacher: GymTeacher, network: OneHot, c: int) -> Float[Tensor, "M L V"]:
    """What a network says at every partly masked sequence."""
    space = teacher.tokens
    return teacher.probabilities(network, states(space.length, space.codes), c)


def random_order(teacher: GymTeacher, steps: int) -> Law:
    """The exact law of the sampler ``random-order``, and of an untrained ``few_step`` from masks alone."""
    space, network = teacher.tokens, teacher.network(share=True)
    shares = [laws.exactly(n) for n in decided_per_pass(space.length, steps)]
    return _of_conditions(
        lambda c: laws.sampled(table_of(teacher, network, c), shares, space.length, space.codes)
    )


def ancestral(teacher: GymTeacher, steps: int) -> Law:
    """The exact law of the sampler ``ancestral`` with the linear schedule."""
    space, network = teacher.tokens, teacher.network(share=True)
    shares = [laws.each_with(1 / (steps - i)) for i in range(steps)]
    return _of_conditions(
        lambda c: laws.sampled(table_of(teacher, network, c), shares, space.length, space.codes)
    )


@cache
def in_turn(teacher: GymTeacher) -> Law:
    """What a teacher draws site by site in random order: its own many-step joint."""
    space, network = teacher.tokens, teacher.network(share=True)
    shares = [laws.exactly(1)] * space.length
    return _of_conditions(
        lambda c: laws.sampled(table_of(teacher, network, c), shares, space.length, space.codes)
    )


def counted(teacher: GymTeacher, sampler: Sampler, steps: int, *, samples: int = SAMPLES) -> Law:
    """The law of any sampler, by counting samples."""
    network = teacher.network(share=True)

    def draw(draws: Draws, c: Int[Tensor, " B"]) -> Int[Tensor, "B L"]:
        how = Constant(scale=1.0)
        return sampler.sample(teacher, network, c, steps=steps, guidance=how, draws=draws).tokens

    return _counted(teacher, draw, samples)


def generator_law(teacher: GymTeacher, generator: Generator, *, samples: int = TRACED) -> Law:
    """The law of a generator: exact where all of x_init can be enumerated.

    It is exact for ``one_step`` and ``few_step`` in random order, without embedding noise, at temperature 1
    and without filters. Of others samples are followed up to their last pass, whose probabilities are added
    whole; with another temperature or filters samples are counted.

    Args:
        teacher: Its teacher.
        generator: On the CPU.
        samples: How many of a condition, where any are drawn.
    """
    with inference(generator):
        o = dict(generator.sampling())
        if o["temperature"] != 1 or o.get("top_k") or o.get("top_p", 1) < 1 or o.get("guidance", 1) != 1:
            return _counted(teacher, lambda draws, c: generator.sample(c, draws), samples)
        if type(generator) in (OneStepGenerator, FewStepGenerator):
            assert isinstance(generator, OneStepGenerator)
            if generator.options.sampled_from()[1] == 0 and o.get("order", "random") == "random":
                return _enumerated(teacher, generator)
        return _traced(teacher, generator, samples)


def _enumerated(teacher: GymTeacher, generator: OneStepGenerator) -> Law:
    r_init, _ = generator.options.sampled_from()
    space, network = teacher.tokens, generator.backbone
    assert isinstance(network, OneHot), "a generator of this teacher has a network of the gym"
    length, steps = space.length, generator.passes
    x = laws.initial(length, space.codes, round(r_init * length))
    shares, e = [laws.exactly(n) for n in decided_per_pass(length, steps)], network.embed(x)

    def law(c: int) -> Tensor:
        z = network.head(network(e, torch.full((len(x),), c), mask_ratio=torch.full((len(x),), r_init)))
        p = table_of(teacher, network, c) if steps > 1 else None
        return laws.generated(z.double().softmax(-1), p, shares)

    return _of_conditions(law)


def _traced(teacher: GymTeacher, generator: Generator, samples: int) -> Law:
    """A mean over samples, each with all that its last pass may draw: whatever is random before is drawn."""
    (network,) = [module for module in generator.modules() if isinstance(module, OneHot)]
    seen = dict[str, Tensor]()
    space, errors, rows = teacher.tokens, [], []
    count = samples // BLOCKS

    def law(c: int, start: int) -> Tensor:
        draws = Draws(seed=c, phase="gym", total=samples, start=start, count=count)
        x = generator.sample(torch.full((count,), c), draws)
        p = network.head(seen["hidden"]).double().softmax(-1)
        if generator.passes > 1:  # what was visible in the last pass had been decided
            p = torch.where(_visible(seen["x"], space)[..., None], one_hot(x, space.codes), p)
        return laws.product_mean(p)

    hook = network.register_forward_hook(lambda _, given, hidden: seen.update(x=given[0], hidden=hidden))
    try:
        for c in range(len(CONDITIONS)):
            q, se = laws.blocks(law(c, start) for start in range(0, count * BLOCKS, count))
            rows.append(q)
            errors.append(float(se.sum()) / 2)
    finally:
        hook.remove()
    return Law(q=torch.stack(rows), error=max(errors), how="traced")


def _visible(x: Tensor, space: TokenSpace) -> Tensor:
    """Which sites are no masks: of tokens, or of embeddings in which masks may carry noise."""
    if not x.is_floating_point():
        return x != space.mask_id
    code, others = x.max(-1)
    return (code == 1) & (others < space.codes) & (x.abs().sum(-1) == 1)


def _of_conditions(law: Callable[[int], Tensor]) -> Law:
    return Law(q=torch.stack([law(c) for c in range(len(CONDITIONS))]))


def _counted(
    teacher: GymTeacher, draw: Callable[[Draws, Tensor], Tensor], samples: int, batch: int = 8192
) -> Law:
    space, rows = teacher.tokens, []
    for c in range(len(CONDITIONS)):
        counts = torch.zeros(space.codes**space.length, dtype=torch.long)
        for start in range(0, samples, batch):
            draws = Draws(seed=c, phase="gym", total=samples, start=start, count=min(batch, samples - start))
            x = draw(draws, torch.full((draws.count,), c))
            counts += places(x, space.codes).bincount(minlength=len(counts))
        rows.append(counts.double() / samples)
    q = torch.stack(rows)
    return Law(q=q, error=max(histogram_tv(row, samples) for row in q), how="counted")
