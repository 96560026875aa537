"""Samplers and guidance."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

from dimo_core import conditions
from dimo_core.backbone import inference
from dimo_core.conditions import Condition
from dimo_core.draws import Draws
from dimo_core.guidance import Constant, Guidance
from dimo_core.sampler import Sampled, Sampler
from dimo_core.teacher import Teacher
from dimo_core.testing.expectations import explains, require, require_close, require_shape, require_tokens
from dimo_core.testing.options import check_options
from dimo_core.testing.untouched import same, untouched
from dimo_core.tokens import Tokens

TRIES = 6
"""Networks, each moved away from the one before, of which one at least should give other samples."""


@explains
def check_sampler(sampler: Sampler, teacher: Teacher, raw: Sequence[Any]) -> None:
    """Complete tokens of the network's, repeatable by their draws alone, and honest pass counts.

    Tried at few and many steps, with guidance where the teacher has it.

    Args:
        sampler: With any options.
        teacher: A small one.
        raw: At least two raw conditions that it takes.
    """
    check_options(sampler)
    c, network, space = teacher.encode_conditions(raw), teacher.network().eval(), teacher.tokens
    seen: list[int] = []
    network.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))

    def run(draws: Draws, c: Condition, steps: int, scale: float = 1.0) -> Sampled:
        seen.clear()
        how: dict[str, Any] = {"steps": steps, "guidance": Constant(scale=scale), "draws": draws}
        with inference(network):
            return sampler.sample(teacher, network, c, **how, keep_trajectory=True)

    draws, name = Draws(seed=1, phase="check", total=len(raw)), type(sampler).__qualname__
    for steps in (1, 2, space.length, space.length + 3):
        for scale in (1.0, 2.0) if "guidance" in teacher.capabilities else (1.0,):
            with untouched(name, c, seeds=True):
                sampled = run(draws, c, steps, scale)
            require_tokens(sampled.tokens, len(raw), space, f"samples in {steps} steps", c)
            counted, taken = sum(seen) / len(raw), len(sampled.trajectory)
            told = f"passes is {counted:g}, what {steps} steps took, not {sampled.passes}"
            require(sampled.passes == counted or (space.gives and sampled.passes > counted), told)
            each = sampled.each()
            require(
                each.shape == (len(raw),) and int(each.max()) <= sampled.passes,
                "calls has a number by sample",
            )
            require(taken <= steps, f"at most {steps} steps are taken when {steps} are asked for")
            require(taken > 0, f"{name} gives the tokens after each step where keep_trajectory is true")
            require_close(sampled.trajectory[-1], sampled.tokens, "the trajectory ends with the samples")
            for before, after in pairwise(sampled.trajectory):
                kept = (before == after) | (before == space.mask_id)
                require(bool(kept.all()), f"a site that has a code keeps it in all later steps of {name}")
            again = run(draws, c, steps, scale)
            require_close(again.tokens, sampled.tokens, "the same draws give the same samples")
        part = run(draws.slice(1, 1), conditions.index(c, slice(1, 2)), steps).tokens
        whole = run(draws, c, steps).tokens
        require_close(part, whole[1:2], "a sample does not depend on the others of its batch")
    _check_asked(sampler, teacher, c, draws)


def _check_asked(sampler: Sampler, teacher: Teacher, c: Condition, draws: Draws) -> None:
    """Samples are what the network says for these conditions, at this scale."""
    name, network = type(sampler).__qualname__, teacher.network().eval()
    asked: list[Condition] = []
    network.register_forward_pre_hook(lambda _module, args: asked.append(args[1]))

    def drawn(scale: float = 1.0) -> Tokens:
        with inference(network):
            guidance = Constant(scale=scale)
            how: dict[str, Any] = {"steps": teacher.tokens.length, "guidance": guidance, "draws": draws}
            return sampler.sample(teacher, network, c, **how).tokens

    last = drawn()
    heard = [row for own in asked for row in _rows(own)]
    told = f"{name} asks the network for the conditions that it is given"
    require(all(any(same(row, one) for one in heard) for row in _rows(c)), told)
    generator, heeded, guided = torch.Generator().manual_seed(0), False, False
    for _ in range(TRIES):
        for p in (p for p in network.parameters() if p.is_floating_point()):
            p.data += 0.3 * torch.randn(p.shape, generator=generator).to(p)
        before, last = last, drawn()
        heeded = heeded or not torch.equal(before, last)
        if "guidance" in teacher.capabilities:
            guided = guided or any(not torch.equal(drawn(scale), last) for scale in (0.0, 8.0))
    require(heeded, f"{name} draws what the network says")
    told = f"{name} guides: another scale gives other samples"
    require(guided or "guidance" not in teacher.capabilities, told)


def _rows(c: Condition) -> list[Condition]:
    """The condition of each sample."""
    return [conditions.index(c, slice(i, i + 1)) for i in range(conditions.batch_size(c))]


@explains
def check_guidance(guidance: Guidance) -> None:
    """Finite scales, each of its own sample.

    Args:
        guidance: With any options.
    """
    check_options(guidance)
    name, ratio = type(guidance).__qualname__, torch.tensor([1.0, 0.5, 0.25, 0.0])
    for progress in (None, 0.0, 0.5, 1.0):
        scale: Any = guidance.at(ratio, progress)
        told = f"{name}.at gives a tensor, one scale a sample, not {type(scale).__name__}"
        require(isinstance(scale, torch.Tensor), told)
        require_shape(scale, (4,), f"{name}.at, one scale a sample")
        require(bool(scale.isfinite().all()), f"{name}.at gives finite scales")
        require(
            scale.dtype == ratio.dtype, f"{name}.at keeps the dtype of the ratios, fp32; not {scale.dtype}"
        )
        alone = guidance.at(ratio[1:2], progress)
        require_close(alone, scale[1:2], f"{name}.at treats samples one by one", 1e-6)
