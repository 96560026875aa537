"""Samplers and guidance."""

from collections.abc import Sequence
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


@explains
def check_sampler(sampler: Sampler, teacher: Teacher, raw: Sequence[Any]) -> None:
    """Complete tokens, repeatable by their draws alone, and honest pass counts, at few and many steps.

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

    draws = Draws(seed=1, phase="check", total=len(raw))
    for steps in (1, 2, space.length, space.length + 3):
        for scale in (1.0, 2.0) if "guidance" in teacher.capabilities else (1.0,):
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
            if taken:
                require_close(sampled.trajectory[-1], sampled.tokens, "the trajectory ends with the samples")
            again = run(draws, c, steps, scale)
            require_close(again.tokens, sampled.tokens, "the same draws give the same samples")
        part = run(draws.slice(1, 1), conditions.index(c, slice(1, 2)), steps).tokens
        whole = run(draws, c, steps).tokens
        require_close(part, whole[1:2], "a sample does not depend on the others of its batch")


@explains
def check_guidance(guidance: Guidance) -> None:
    """Finite scales, each of its own sample.

    Args:
        guidance: With any options.
    """
    check_options(guidance)
    name, ratio = type(guidance).__qualname__, torch.tensor([1.0, 0.5, 0.25, 0.0])
    for progress in (None, 0.0, 0.5, 1.0):
        scale = guidance.at(ratio, progress)
        require_shape(scale, (4,), f"{name}.at, one scale a sample")
        require(bool(scale.isfinite().all()), f"{name}.at gives finite scales")
        require(
            scale.dtype == ratio.dtype, f"{name}.at keeps the dtype of the ratios, fp32; not {scale.dtype}"
        )
        alone = guidance.at(ratio[1:2], progress)
        require_close(alone, scale[1:2], f"{name}.at treats samples one by one", 1e-6)
