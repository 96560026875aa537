"""What is measured without samples is what samples show."""

from typing import Any

import pytest
import torch

from dimo_core.backbone import inference
from dimo_core.draws import Draws
from dimo_core.generator import Generator
from dimo_core.method.few_step import FewStep, decided_per_pass
from dimo_core.method.one_step import OneStep
from dimo_di4c.generator import Mixture
from dimo_distillers.imdm import Imdm
from dimo_gym.distances import compared, histogram_tv
from dimo_gym.measuring import Law, ancestral, counted, generator_law, random_order
from dimo_gym.networks import GAIN
from dimo_gym.partial import places
from dimo_gym.teacher import GymTeacher
from dimo_samplers.ancestral import AncestralSampler
from dimo_samplers.ordered import ordered_counts
from dimo_samplers.random_order import RandomOrderSampler

TEACHER = GymTeacher(joint="markov", length=3, codes=3)
SAMPLES = 2**18
SURE = 1.35
"""Times the error to expect: of some 27 shares, half a dozen standard deviations of their sum."""


def shaken(generator: Generator) -> Generator:
    """With other weights than the teacher's, so that what is visible matters at every site."""
    table = generator.backbone.get_parameter("table")
    with torch.no_grad():
        table += torch.randn(table.shape, generator=torch.Generator().manual_seed(1)) / GAIN
    return generator


def near(exact: Law, estimate: Law) -> None:
    assert exact.how == "exact"
    assert estimate.how == "counted"
    for p, q in zip(exact.q, estimate.q, strict=True):
        assert compared(p, q).tv < SURE * histogram_tv(p, SAMPLES)


def histogram(generator: Generator, c: int) -> torch.Tensor:
    """Shares of what is drawn, with other random numbers than a law is found with."""
    with inference(generator):
        x = generator.sample(torch.full((SAMPLES,), c), Draws(seed=77, phase="test", total=SAMPLES))
    return places(x, TEACHER.tokens.codes).bincount(minlength=27).double() / SAMPLES


@pytest.mark.parametrize("steps", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_laws_of_samplers_are_those_of_the_plugins(steps: int) -> None:
    near(random_order(TEACHER, steps), counted(TEACHER, RandomOrderSampler(), steps, samples=SAMPLES))
    near(ancestral(TEACHER, steps), counted(TEACHER, AncestralSampler(), steps, samples=SAMPLES))


@pytest.mark.parametrize(
    "options",
    [
        OneStep(r_init=0.4, sigma_init=0.0),
        FewStep(r_init=0.4, sigma_init=0.0, steps=2),
        *(pytest.param(FewStep(r_init=0.4, sigma_init=0.0, steps=k), marks=pytest.mark.slow) for k in (3, 8)),
    ],
)
def test_the_law_of_a_generator_is_that_of_its_samples(options: Any) -> None:
    generator = shaken(options.build(TEACHER))
    exact = generator_law(TEACHER, generator)
    for c in range(2):
        assert compared(exact.q[c], histogram(generator, c)).tv < SURE * histogram_tv(exact.q[c], SAMPLES)

    class Other(type(generator)):  # type: ignore[misc]  # a kind that nothing is known of
        pass

    generator.__class__ = Other
    traced = generator_law(TEACHER, generator)
    assert traced.how == "traced"
    assert traced.error is not None
    for p, q in zip(exact.q, traced.q, strict=True):
        assert compared(p, q).tv < traced.error


@pytest.mark.parametrize("steps", [1, *(pytest.param(k, marks=pytest.mark.slow) for k in (2, 3))])
@pytest.mark.parametrize(
    ("kind", "options"), [(Imdm, {"r_init": 1.0, "noise": 8}), (Mixture, {"latent_features": 8})]
)
def test_the_law_of_noise_and_of_a_mixture_is_that_of_its_samples(
    kind: Any, options: dict[str, Any], steps: int
) -> None:
    teacher = GymTeacher(joint="markov", length=3, codes=3, extra=True)
    generator = kind(steps=steps, **options).build(teacher)
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():  # so that noise, or the latent, matters
        for name, p in generator.named_parameters():
            p += torch.randn(p.shape, generator=random) * (0.3 if "mlp" in name else 1 / GAIN)
    law = generator_law(teacher, generator)
    assert law.how == "traced"
    assert law.error is not None
    assert law.error < 0.03
    for c in range(2):
        expected = law.error + SURE * histogram_tv(law.q[c], SAMPLES)
        assert compared(law.q[c], histogram(generator, c)).tv < expected
    together = law.q[0].view(3, 3, 3)
    if steps == 1:  # a mixture of products is none, which is what noise and latents are for
        alone = [together.sum((1, 2)), together.sum((0, 2)), together.sum((0, 1))]
        product = torch.einsum("i,j,k->ijk", *alone)
        assert (together - product).abs().sum() > 0.02


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_from_masks_alone_an_untrained_generator_is_a_sampler(steps: int) -> None:
    options = (
        FewStep(r_init=1.0, sigma_init=0.0, steps=steps) if steps > 1 else OneStep(r_init=1.0, sigma_init=0.0)
    )
    law = generator_law(TEACHER, options.build(TEACHER))
    torch.testing.assert_close(law.q, random_order(TEACHER, steps).q)


def test_the_law_with_embedding_noise_is_a_mean_with_an_error() -> None:
    plain, noisy = (
        generator_law(TEACHER, shaken(OneStep(r_init=0.4, sigma_init=s).build(TEACHER))) for s in (0.0, 0.3)
    )
    assert noisy.how == "traced"
    assert noisy.error is not None
    assert 0 < noisy.error < 0.05
    assert compared(plain.q[0], noisy.q[0]).tv > 2 * noisy.error
    torch.testing.assert_close(noisy.q.sum(1), torch.ones(2).double())


def test_filters_are_counted_and_not_taken_for_exact() -> None:
    generator = OneStep(sigma_init=0.0, temperature=0.5).build(TEACHER)
    assert generator_law(TEACHER, generator, samples=1000).how == "counted"


@pytest.mark.parametrize(("length", "steps"), [(4, 1), (6, 4), (9, 8), (4, 8), (16, 16), (7, 12)])
def test_passes_decide_what_the_sampler_decides(length: int, steps: int) -> None:
    assert decided_per_pass(length, steps) == ordered_counts(length, steps, "arccos", "cumulative")
