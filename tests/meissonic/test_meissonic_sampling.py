"""Sampling the teacher in many steps, beside the scheduler of diffusers that its pipeline uses."""

from typing import Any

import pytest
import torch
from diffusers.schedulers import scheduling_amused
from torch import Tensor

from dimo_core.draws import Draws, categorical
from dimo_core.guidance import Constant
from dimo_core.sampler import Sampled
from dimo_meissonic.teacher import Meissonic
from dimo_samplers.maskgit import MaskGitSampler, tokens_per_step

SCALE = 3.0
AMUSED = MaskGitSampler(schedule="cosine", counts="amused", order="confidence", gumbel=2.0)
DRAWS = Draws(seed=5, total=2, phase="x")
PROMPTS = ["a red cat", "the green hat"]


class Told:
    """A clock that says what it was told."""

    index = 0

    def timestep(self, ratio: Tensor) -> Tensor:
        return torch.full_like(ratio, self.index)


def scheduled(teacher: Meissonic, steps: int, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Tokens after each step, as the published pipeline takes it; its random numbers are our draws."""
    space, network, clock = teacher.tokens, teacher.network(), Told()
    network.clock = clock
    last = len(tokens_per_step(space.length, steps, "cosine", "amused")) - 1
    now = DRAWS

    def multinomial(p: Tensor, count: int, generator: Any = None) -> Tensor:
        assert count == 1
        return categorical(p.log(), now.uniform("drawn", space.length).flatten())[:, None]

    monkeypatch.setattr(torch, "multinomial", multinomial)
    monkeypatch.setattr(
        scheduling_amused, "gumbel_noise", lambda p, generator=None: now.gumbel("gumbel", space.length)
    )
    scheduler = scheduling_amused.AmusedScheduler(mask_token_id=space.mask_id)
    scheduler.set_timesteps(steps, temperature=(2, 0))
    x = torch.full((2, space.length), space.mask_id)
    c = teacher.encode_conditions(PROMPTS)
    after = []
    for step, time in enumerate(scheduler.timesteps):
        place = last if step == steps - 1 else step
        now = Draws(seed=DRAWS.seed, total=2, phase=f"x/{place if place <= last else 'unused'}")
        clock.index = int(time)
        z, null = (
            network.logits(x, given, mask_ratio=torch.zeros(2)) for given in (c, teacher.null_condition(c))
        )
        x = scheduler.step(null + SCALE * (z - null), time, x).prev_sample
        after.append(x)
    return after


def sampled(teacher: Meissonic, steps: int, network: Any = None) -> Sampled:
    return AMUSED.sample(
        teacher,
        network or teacher.network(),
        teacher.encode_conditions(PROMPTS),
        steps=steps,
        guidance=Constant(scale=SCALE),
        draws=DRAWS,
        keep_trajectory=True,
    )


@pytest.mark.parametrize(
    ("grid", "steps"),
    [((8, 8), 1), ((8, 8), 2), ((8, 8), 7), ((4, 6), 16)]
    + [((3, 5), steps) for steps in (3, 8, 14, 15, 16, 17, 40)]
    + [((1, 2), 5)],
)
@torch.no_grad()
def test_every_step_leaves_what_the_published_scheduler_leaves(
    options: dict[str, Any], grid: tuple[int, int], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = Meissonic(**{**options, "grid": grid}, timestep="step_index")
    ours = sampled(teacher, steps).trajectory
    theirs = scheduled(teacher, steps, monkeypatch)
    masked = [int((x == teacher.tokens.mask_id).sum()) for x in theirs]
    assert [0] == masked[-1:]
    kept = [*theirs[: len(ours) - 1], theirs[-1]]
    assert len(kept) == len(ours)
    for a, b in zip(ours, kept, strict=True):
        assert torch.equal(b, a)
    # What we leave out decides nothing there either.
    assert {2} >= set(masked[len(ours) - 1 : -1])


def test_noise_falls_by_the_steps_that_were_asked_for(options: dict[str, Any]) -> None:
    """Or else runs of more steps than tokens would choose other tokens than the published scheduler."""
    teacher = Meissonic(**{**options, "grid": (3, 5)})
    scales: list[float] = []

    class Spy(MaskGitSampler):
        def _best(self, log_p: Tensor, undecided: Tensor, count: int, noise: float, draws: Draws) -> Tensor:
            scales.append(noise)
            return super()._best(log_p, undecided, count, noise, draws)

    Spy(schedule="cosine", counts="amused").sample(
        teacher,
        teacher.network(),
        teacher.encode_conditions(PROMPTS),
        steps=40,
        guidance=Constant(),
        draws=DRAWS,
    )
    assert pytest.approx([*(1 - i / 39 for i in range(len(scales) - 1)), 0.0]) == scales
    assert len(scales) <= 15


@pytest.mark.parametrize("steps", [1, 5, 12, 64, 100])
def test_samplers_tell_the_index_of_their_own_steps(
    options: dict[str, Any], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = Meissonic(**options, timestep="step_index", timestep_steps=7)
    network, told = teacher.network(), list[float]()
    own, forward = network.clock, type(network).modulation

    def spy(self: Any, c: Any, mask_ratio: Tensor) -> Tensor:
        told.append(float(self.clock.timestep(mask_ratio)[0]))
        return forward(self, c, mask_ratio)

    monkeypatch.setattr(type(network), "modulation", spy)
    taken = len(sampled(teacher, steps, network).trajectory)
    once = told[:: len(told) // taken]
    assert [*range(steps - 1, steps - taken, -1), 0] == once
    assert own == network.clock, "the network itself is left as it is"


@pytest.mark.parametrize("timestep", ["zero", "mask_ratio"])
def test_other_conventions_do_not_hear_of_steps(options: dict[str, Any], timestep: Any) -> None:
    teacher = Meissonic(**options, timestep=timestep)
    network = teacher.network()
    assert network is teacher.at_step(network, 1, 3)


def test_a_step_shares_the_weights_and_leaves_what_is_compiled(options: dict[str, Any]) -> None:
    teacher = Meissonic(**options, timestep="step_index")
    network = teacher.network()
    network.compile(backend=lambda graph, inputs: pytest.fail("the view must run its own code"))
    view = teacher.at_step(network, 1, 3)
    for one, other in zip(network.parameters(), view.parameters(), strict=True):
        assert one is other
    view(torch.zeros(1, 64).long(), teacher.encode_conditions(["a"]), mask_ratio=torch.ones(1))


def test_named_samplings_say_which_timestep_they_were_published_with(teacher: Meissonic) -> None:
    sources = [sampling.source for sampling in teacher.samplings().values()]
    assert sources
    assert all("--teacher.timestep step_index" in source and "zero" in source for source in sources)
