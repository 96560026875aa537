"""Objectives: parts, phases, and gradients that do not hang on how a batch is divided."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dimo_core import conditions
from dimo_core.conditions import Condition
from dimo_core.draws import Draws
from dimo_core.errors import UsageError
from dimo_core.objective import Batch, Ingredients, Objective, ObjectiveOptions, Phase, streams
from dimo_core.testing.expectations import TOLERANCE, explained, explains, require, require_close
from dimo_core.testing.options import check_options
from dimo_core.tokens import TokenSpace


@explains
def check_objective(options: ObjectiveOptions, ingredients: Ingredients, raw: Sequence[Any]) -> None:
    """Parts and phases that fit, and gradients of a batch that are those of its micro-batches.

    Args:
        options: With any values; layers of dropout drop nothing here.
        ingredients: What it is made of, with a small teacher.
        raw: At least two raw conditions that the teacher takes.
    """
    check_options(options)
    objective, name = options.build(ingredients), type(options).__qualname__
    parts, phases = objective.parts(), objective.phases()
    require(bool(parts), f"{name} has a part that is trained")
    for part, made in parts.items():
        trained = any(p.requires_grad for p in made.module.parameters())
        require(trained, f"the part {part!r} of {name} has weights with requires_grad")
    require(
        len({phase.name for phase in phases}) == len(phases) > 0, f"phases of {name} have names of their own"
    )
    streams(phases, options.needs)
    for module in (m for part in parts.values() for m in part.module.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for phase in phases:
        unknown = [part for part in phase.parts if part not in parts]
        require(not unknown, f"the phase {phase.name!r} trains parts of {name}; {unknown[:1]} is none")
        _check_phase(objective, phase, ingredients, raw)
    bare = Ingredients(teacher=ingredients.teacher)
    with explained(f"build of {name} says with UsageError what it lacks"):
        try:
            options.build(bare)
        except UsageError:
            return


def _check_phase(objective: Objective, phase: Phase, ingredients: Ingredients, raw: Sequence[Any]) -> None:
    """Gradients of its own parts alone, finite losses, and micro-batches that add up."""
    space, c = ingredients.teacher.tokens, ingredients.teacher.encode_conditions(raw)
    draws, count = Draws(seed=0, step=1, phase=phase.name, total=len(raw)), len(raw)
    logs, whole = _gradients(objective, phase, [(c, draws)], space)
    for name, value in logs.items():
        told = f"{phase.name!r} returns detached scalars; {name!r}"
        require(value.shape == () and not value.requires_grad, f"{told} is none")
    losses = [name for name in logs if name.endswith("loss")]
    require(all(bool(logs[name].isfinite()) for name in losses), f"losses of {phase.name!r} are finite")
    reached = {part for part, gradient in whole.items() if any(g is not None for g in gradient.values())}
    expected = f"the phase {phase.name!r} gives gradients to its parts {sorted(phase.parts)}"
    require(reached == {*phase.parts}, f"{expected}, not to {sorted(reached)}")
    pieces = [(conditions.index(c, slice(i, i + 1)), draws.slice(i, 1)) for i in range(count)]
    shares, added = _gradients(objective, phase, pieces, space)
    same = "as those of the whole batch: divide by draws.total or by counts of draws.whole()"
    for part in phase.parts:
        for name, gradient in whole[part].items():
            if gradient is not None:
                other = added[part][name]
                require(other is not None, f"every micro-batch gives {part}.{name} a gradient")
                require_close(other, gradient, f"gradients of micro-batches add up {same}", 10 * TOLERANCE)
    for name in losses:
        require_close(shares[name], logs[name], f"{name!r} of micro-batches adds up {same}", 10 * TOLERANCE)


def _gradients(
    objective: Objective, phase: Phase, pieces: Sequence[tuple[Condition, Draws]], space: TokenSpace
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor | None]]]:
    """Summed logs, and the gradient of each parameter by part, after some micro-batches."""
    modules = {name: part.module for name, part in objective.parts().items()}
    for module in modules.values():
        module.zero_grad()
    logs = dict[str, Tensor]()
    whole = conditions.cat([c for c, _ in pieces])
    given = space.given(whole)
    for c, draws in pieces:
        x_0 = space.codes_of(
            Draws(seed=2, total=draws.total).slice(draws.start, draws.count).uniform("x", space.length)
        )
        own = space.given(c)
        batch = Batch(
            conditions=c,
            tokens=own.put(x_0) if own else x_0,
            rows=torch.arange(draws.start, draws.start + draws.count),
            valid=given.valid if given else None,
        )
        logged: Any = phase.accumulate(batch, draws, watch=True)
        told = f"accumulate of {phase.name!r} gives scalar tensors by name"
        require(isinstance(logged, Mapping), f"{told}, not {type(logged).__name__}")
        for name, value in logged.items():
            require(isinstance(value, Tensor), f"{told}; {name!r} is of {type(value).__name__}")
            logs[name] = logs[name] + value if name in logs else value
    found = {
        part: {name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()}
        for part, module in modules.items()
    }
    return logs, found
