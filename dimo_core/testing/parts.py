"""Generators and auxiliaries: what starts as the teacher, and learns."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dimo_core import conditions
from dimo_core.auxiliary import AuxiliaryOptions, Targets
from dimo_core.backbone import inference
from dimo_core.draws import Draws
from dimo_core.generator import Generator, GeneratorOptions
from dimo_core.options import build, plain
from dimo_core.teacher import Teacher
from dimo_core.testing.expectations import (
    TOLERANCE,
    explained,
    explains,
    partly_masked,
    require,
    require_close,
    require_shape,
    require_tokens,
)
from dimo_core.testing.options import check_options


@explains
def check_generator(options: GeneratorOptions, teacher: Teacher, raw: Sequence[Any]) -> None:
    """Samples that hang on their draws alone, a rollout that learns, and weights that are read again.

    Args:
        options: With any values.
        teacher: A small one.
        raw: At least two raw conditions that it takes.
    """
    check_options(options)
    space, c, count = teacher.tokens, teacher.encode_conditions(raw), len(raw)
    generator, draws = options.build(teacher), Draws(seed=0, phase="check", total=count)
    require(generator.space == space, "the generator has the token space of the teacher")
    require(generator.passes == options.passes, "options.passes tells the passes of their generator")
    calls: list[int] = []
    hook = generator.backbone.register_forward_pre_hook(lambda _module, args: calls.append(len(args[0])))
    with inference(generator):
        x = generator.sample(c, draws)
        hook.remove()
        require_tokens(x, count, space, "samples", c)
        made = sum(calls) / count
        require(made == generator.passes, f"passes is {made:g}, what a sample took, not {generator.passes}")
        require_close(generator.sample(c, draws), x, "the same draws give the same samples")
        part = generator.sample(conditions.index(c, slice(1, 2)), draws.slice(1, 1))
        require_close(part, x[1:2], "a sample does not depend on the others of its batch")
        again = options.frame(teacher)
        with explained("frame(teacher) takes the tensors of backbone.state_dict()"):
            again.backbone.load_state_dict(generator.backbone.state_dict(), strict=True)
        with inference(again):
            require_close(again.sample(c, draws), x, "frame(teacher) with the saved tensors draws the same")
    with explained("sampling() holds options by name, as plain data"):
        build(type(options), plain(dict(generator.sampling())))
    _check_rollout(generator, c, draws)


def _check_rollout(generator: Generator, c: Any, draws: Draws) -> None:
    """The rollout has a graph, and its head learns."""
    generator.eval()
    rollout = generator.rollout(c, draws)
    require_shape(rollout.x_init, (draws.count, generator.space.length), "x_init of a rollout")
    require(rollout.hidden.requires_grad, "hidden states of a rollout have a graph")
    rows = torch.arange(rollout.x_init.numel())
    z = generator.head(rollout.hidden, rows)
    require_shape(z, (len(rows), generator.space.columns), "head(hidden, rows) of a rollout")
    x = rollout.x_theta(z, rows)
    whole = bool(((x >= 0) & (x < generator.space.columns)).all())
    require(whole, "a rollout draws x_theta from z_theta and u: codes, and no masks")
    _require_learning(generator, z, "a rollout")


@explains
def check_auxiliary(options: AuxiliaryOptions, teacher: Teacher, raw: Sequence[Any]) -> None:
    """Logits at all sites and at rows, and a loss that is a sum over rows and trains it.

    Args:
        options: With any values.
        teacher: A small one.
        raw: At least two raw conditions that it takes.
    """
    check_options(options)
    space, c = teacher.tokens, teacher.encode_conditions(raw)
    auxiliary = options.build(teacher).eval()
    x = partly_masked(space, c, Draws(seed=0, phase="check", total=len(raw)))
    rows = (x == space.mask_id).flatten().nonzero().squeeze(1)
    hidden = auxiliary(x, c, mask_ratio=(x == space.mask_id).float().mean(1))
    z = auxiliary.head(hidden)
    require_shape(z, (*x.shape, space.columns), "logits of the auxiliary")
    z_psi = auxiliary.head(hidden, rows)
    require_close(z_psi, z.flatten(0, 1)[rows], "head(hidden, rows) gives these flat rows", TOLERANCE)
    codes = space.codes_of(Draws(seed=1, total=len(x)).uniform("x", space.length)).flatten()[rows]
    loss = auxiliary.loss(z_psi, codes)
    require_shape(loss, (), "loss, a scalar")
    parts = auxiliary.loss(z_psi[:1], codes[:1]) + auxiliary.loss(z_psi[1:], codes[1:])
    require_close(parts, loss, "loss is a sum over rows, and divides by nothing", TOLERANCE)
    if not auxiliary.reads_teacher:
        learnt = auxiliary.learn(z_psi, Targets(x_theta=codes, z_theta=z_psi.detach()))
        require(bool(learnt.isfinite()), "learn gives a finite loss")
    _require_learning(auxiliary, loss, "the loss")


def _require_learning(module: nn.Module, leads: Tensor, what: str) -> None:
    """Gradients reach what is trained, and nothing else."""
    require(leads.requires_grad, f"{what} has a graph: nothing detaches it")
    torch.autograd.backward(leads.masked_fill(leads == -torch.inf, 0.0).square().sum())
    trained = [name for name, p in module.named_parameters() if p.requires_grad]
    reached = [name for name, p in module.named_parameters() if p.grad is not None]
    require(bool(trained), "some weights are trained: build sets requires_grad")
    lost = sorted({*trained} - {*reached})
    require(not lost, f"gradients of {what} reach every trained weight; {lost[:1]} gets none")
