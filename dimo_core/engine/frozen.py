"""What an objective uses and does not train: whose it is, and the format in which it is kept."""

from collections.abc import Iterator

import torch
from torch import nn

from dimo_core.engine.part_state import decayed
from dimo_core.objective import Objective
from dimo_core.settings import FrozenDtype


def frozen_parameters(objective: Objective) -> Iterator[nn.Parameter]:
    """The parameters of the networks that are not trained, and what trained parts borrow of them.

    A part borrows what it neither trains nor has in its state, such as the base of adapters. What it fixes
    and saves, such as the embeddings of a whole network, is its own.
    """
    for module in objective.frozen().values():
        yield from module.parameters()
    for part in objective.parts().values():
        own = part.module.state_dict().keys()
        for name, parameter in part.module.named_parameters(remove_duplicate=False):
            if name not in own and not parameter.requires_grad:
                yield parameter


@torch.no_grad()
def cast_frozen(objective: Objective, dtype: FrozenDtype) -> None:
    """Keep what is not trained in this format, in place: what networks share is still shared, and once.

    Cast are weight matrices and kernels, by the rule of ``Optimisation.weight_decay``. They enter products,
    for which autocast rounds them to bf16 anyway, so no number changes. What is looked up or added stays as
    it is: embeddings and heads tied to them, positions, biases, gains of norms and buffers.

    Args:
        objective: Whose networks.
        dtype: ``fp32`` leaves everything as it is.
    """
    if dtype == "fp32":
        return
    modules = (*objective.frozen().values(), *(part.module for part in objective.parts().values()))
    matrices = set[nn.Parameter]().union(*map(decayed, modules))
    for parameter in frozen_parameters(objective):
        if parameter in matrices:
            parameter.data = parameter.data.to(torch.bfloat16)
