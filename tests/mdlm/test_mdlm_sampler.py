"""The sampler ``mdlm`` against runs of the published code whose draws were recorded, and what it promises."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dimo_core.backbone import inference
from dimo_core.draws import Draws
from dimo_core.guidance import Constant, Ramp
from dimo_core.registry import Registry
from dimo_core.sampler import Sampled
from dimo_core.testing import check_sampler
from dimo_mdlm.teacher import Mdlm
from dimo_samplers.ancestral import AncestralSampler
from dimo_samplers.kernel import Kernel
from dimo_samplers.mdlm import MdlmSampler
from dimo_samplers.staged import Stage

DATA = Path(__file__).parents[1] / "data" / "mdlm"
MASK = 29
RUNS: Mapping[str, dict[str, Any]] = {
    "ddpm5": {"cache": False},
    "cache20": {},
    "ddpm4_time": {"ratio": "time"},
    "ddpm3_eps": {"cache": False, "eps": 0.3},
    "duo_cache6": {"eps": 0.3, "last": "draw"},
}


@attrs.frozen(kw_only=True, eq=False)
class Recorded(Kernel):
    """Draws as the published code: argmax over codes and mask of q / (1e-10 - log(u + 1e-10))."""

    q: Float[Tensor, "K W"]
    u: Float[Tensor, "K W"]

    def draw(self, jump: Tensor, code: Tensor) -> tuple[Bool[Tensor, " K"], Int[Tensor, " K"]]:
        drawn = (self.q / (1e-10 - (self.u + 1e-10).log())).argmax(-1)
        return drawn != MASK, drawn


@attrs.frozen(kw_only=True)
class Replayed(MdlmSampler):
    """The sampler with the draws of a recorded run, whose probabilities it must have."""

    stored: Mapping[str, Tensor] = attrs.field(factory=dict, eq=False)
    tolerance: float = 1e-6

    def kernel(self, stage: Stage, logits: Sequence[Float[Tensor, "K V"]]) -> Kernel:
        kernel = super().kernel(stage, logits)
        at = (self.stored["t"] - stage.ratio).abs().argmin()
        if len(logits) > 1 and self.last == "likeliest":
            return kernel
        assert float(self.stored["t"][at]) == pytest.approx(stage.ratio, abs=1e-12)
        masked = self.stored["x_before"][at] == MASK
        unmask, u = kernel.unmask[:, None], self.stored["uniform"][at][masked].double()
        q = torch.cat([kernel.codes * unmask, 1 - unmask], 1)
        expected = self.stored["q"][at][masked].double()
        expected = expected / expected.sum(1, keepdim=True)
        torch.testing.assert_close(q, expected, atol=self.tolerance, rtol=0)
        return Recorded(unmask=kernel.unmask, codes=kernel.codes, q=q, u=u)


def replayed(name: str, stored: dict[str, Tensor]) -> tuple[Sampled, dict[str, Tensor]]:
    """The run of this name again, and its record."""
    own = {key.removeprefix(f"{name}."): t for key, t in stored.items() if key.startswith(f"{name}.")}
    count, length = own["final"].shape
    timed = name == "ddpm4_time"
    teacher = Mdlm(checkpoint=str(DATA), length=length, time_conditioning=timed)
    network = teacher.network().double()
    sampler = Replayed(**RUNS[name], stored=own, tolerance=1e-4 if timed else 1e-6)
    steps = len(own["t"]) - int(name == "duo_cache6")
    with inference(network):
        sampled = sampler.sample(
            teacher,
            network,
            torch.zeros(count, dtype=torch.long),
            steps=steps,
            guidance=Constant(),
            draws=Draws(seed=0, total=count),
            keep_trajectory=True,
        )
    return sampled, own


@pytest.mark.parametrize("name", RUNS)
def test_runs_of_the_published_sampler_are_repeated(
    name: str, golden: Callable[[str], dict[str, Tensor]]
) -> None:
    sampled, own = replayed(name, golden("mdlm/sampler_trajectory"))
    for before, x in zip(own["x_before"][1:], sampled.trajectory[:-1], strict=False):
        assert torch.equal(before, x)
    assert torch.equal(own["final"], sampled.tokens)
    useless = "x_last" in own and not bool((own["x_last"] == MASK).any())
    assert int(own["network_calls"]) - useless == sampled.passes


def test_the_contract(tiny_teacher: Any) -> None:
    for options in ({}, {"last": "draw"}, {"cache": False}, {"ratio": "time"}, {"eps": 0.4}):
        check_sampler(MdlmSampler(**options), tiny_teacher, [0, 1, 1])


def test_it_is_found_by_name() -> None:
    assert MdlmSampler is Registry.discover().load("sampler", "mdlm")


def drawn(teacher: Any, steps: int = 30, guidance: Any = None, **options: Any) -> Sampled:
    return MdlmSampler(**options).sample(
        teacher,
        teacher.network(),
        torch.zeros(3, dtype=torch.long),
        steps=steps,
        guidance=guidance or Constant(),
        draws=Draws(seed=4, total=3),
    )


def test_what_is_kept_saves_passes_and_changes_no_sample(tiny_teacher: Any) -> None:
    with_it, without = drawn(tiny_teacher), drawn(tiny_teacher, cache=False)
    assert torch.equal(with_it.tokens, without.tokens)
    assert with_it.passes < without.passes <= 31


def test_nothing_is_kept_where_the_network_or_guidance_is_told_another_number(tiny_teacher: Any) -> None:
    without = drawn(tiny_teacher, cache=False)
    assert without.passes == drawn(tiny_teacher, ratio="time").passes
    ramp = Ramp(scale=2.0)
    assert drawn(tiny_teacher, guidance=ramp).passes == drawn(tiny_teacher, guidance=ramp, cache=False).passes


def test_steps_that_end_early_leave_masks_for_one_more_pass(tiny_teacher: Any) -> None:
    assert 2 == drawn(tiny_teacher, 1, eps=0.5).passes
    assert 1 == drawn(tiny_teacher, 1).passes
    other = drawn(tiny_teacher, 1, eps=0.5, last="draw").tokens
    assert not torch.equal(drawn(tiny_teacher, 1, eps=0.5).tokens, other)


def test_the_likeliest_codes_are_taken_at_the_end(tiny_teacher: Any) -> None:
    network, x = tiny_teacher.network(), torch.full((3, 4), 5)
    z = network.logits(x, torch.zeros(3, dtype=torch.long), mask_ratio=torch.ones(3))
    assert torch.equal(z.argmax(-1), drawn(tiny_teacher, steps=1, eps=1 - 1e-9).tokens)


def test_its_law_is_that_of_ancestral_sampling(tiny_teacher: Any) -> None:
    """With eps towards 0 both are the same process, drawn with the same numbers."""
    how: dict[str, Any] = {"steps": 4, "guidance": Constant(), "draws": Draws(seed=4, total=200)}
    c = torch.zeros(200, dtype=torch.long)
    ours = MdlmSampler().sample(tiny_teacher, tiny_teacher.network(), c, **how).tokens
    other = AncestralSampler().sample(tiny_teacher, tiny_teacher.network(), c, **how).tokens
    assert (ours == other).float().mean() > 0.99
