"""What a teacher's samplers and a trained generator draw, as laws, one for each condition."""

from collections.abc import Callable
from functools import cache

import attrs
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dimo_core.backbone import inference
from dimo_core.draws import Draws
from dimo_core.generator import Generator
from dimo_core.guidance import Constant
from dimo_core.method.few_step import FewStepGenerator, decided_per_pass
from dimo_core.method.one_step import OneStepGenerator
from dimo_core.method.process import perturb
from dimo_core.sampler import Sampler
from dimo_gym import laws
from dimo_gym.distances import histogram_tv
from dimo_gym.joints import CONDITIONS
from dimo_gym.networks import OneHot
from dimo_gym.partial import places, states
from dimo_gym.teacher import GymTeacher

NOISES = 32
"""Draws of the embedding noise, with which the law of a generator that has some is estimated."""

SAMPLES = 2**17
"""Samples of a condition, where a law can only be estimated by counting."""


@attrs.frozen(kw_only=True, eq=False)
class Law:
    """What is drawn under each condition.

    Attributes:
        q: ``[C, V^L]``.
        error: None for an exact law; else the largest error to expect of its total variation.
        how: exact, noise (a mean over draws of the noise) or counted (a histogram of samples).
    """

    q: Float[Tensor, "C N"]
    error: float | None = None
    how: str = "exact"


def few_counts(length: int, steps: int) -> list[int]:
    """How many sites each pass of ``few_step``, or of the sampler ``random-order``, decides."""
    return decided_per_pass(length, steps)


def table_of(teacher: GymTeacher, network: OneHot, c: int) -> Float[Tensor, "M L V"]:
    """What a network says at every partly masked sequence."""
    space = teacher.tokens
    return teacher.probabilities(network, states(space.length, space.codes), c)


def random_order(teacher: GymTeacher, steps: int) -> Law:
    """The exact law of the sampler ``random-order``, and of an untrained ``few_step`` from masks alone."""
    space, network = teacher.tokens, teacher.network(share=True)
    shares = [laws.exactly(n) for n in few_counts(space.length, steps)]
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


def generator_law(teacher: GymTeacher, generator: Generator, *, samples: int = SAMPLES) -> Law:
    """The law of a generator: exact where all of x_init can be enumerated.

    It is exact for ``one_step`` and ``few_step`` without embedding noise, at temperature 1 and without
    filters; with noise it is a mean over draws of it; of others samples are counted.

    Args:
        teacher: Its teacher.
        generator: On the CPU.
        samples: How many, where they are counted.
    """
    with inference(generator):
        plain = type(generator) in (OneStepGenerator, FewStepGenerator)
        o = dict(generator.sampling())
        if not plain or o["temperature"] != 1 or o["top_k"] or o["top_p"] < 1:
            return _counted(teacher, lambda draws, c: generator.sample(c, draws), samples)
        assert isinstance(generator, OneStepGenerator)
        return _enumerated(teacher, generator)


def _enumerated(teacher: GymTeacher, generator: OneStepGenerator) -> Law:
    r_init, sigma = generator.options.sampled_from()
    space, network = teacher.tokens, generator.backbone
    assert isinstance(network, OneHot), "a generator of this teacher has a network of the gym"
    length, steps = space.length, generator.passes
    x = laws.initial(length, space.codes, round(r_init * length))
    counts = few_counts(length, steps)
    shares, e = [laws.exactly(n) for n in counts], network.embed(x)

    def law(c: int, noise: Tensor | None) -> Tensor:
        perturbed = e if noise is None else perturb(e, sigma, noise)
        ratio = torch.full((len(x),), r_init)
        z = network.head(network(perturbed, torch.full((len(x),), c), mask_ratio=ratio))
        p = table_of(teacher, network, c) if steps > 1 else None
        return laws.generated(z.double().softmax(-1), p, shares)

    if sigma == 0:
        return _of_conditions(lambda c: law(c, None))
    draws = Draws(seed=0, phase="gym", total=NOISES)
    noises = [draws.slice(i, 1).normal("eps", *e.shape)[0] for i in range(NOISES)]
    found = [laws.blocks(law(c, noise) for noise in noises) for c in range(len(CONDITIONS))]
    error = max(float(se.sum()) / 2 for _, se in found)
    return Law(q=torch.stack([q for q, _ in found]), error=error, how="noise")


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
