"""A look at the networks before the first step: what would train wrong without a word is an error."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dimo_core import conditions
from dimo_core.backbone import Backbone, inference
from dimo_core.draws import Draws
from dimo_core.errors import PluginError
from dimo_core.generator import Generator
from dimo_core.teacher import Teacher
from dimo_core.tokens import TokenSpace


def look(
    teacher: Teacher,
    network: nn.Module,
    trained: Mapping[str, nn.Module],
    raw: Sequence[Any],
    device: torch.device,
) -> None:
    """One forward pass of the teacher and one of the generator, for a few conditions.

    Args:
        teacher: The teacher.
        network: Its frozen network, on the device.
        trained: The trained modules by name; one that is a generator is sampled.
        raw: Some raw conditions of the run.
        device: Where the networks are.

    Raises:
        PluginError: when conditions, logits or tokens are not what the interfaces promise, or a trained
            weight is one of the teacher's or of another part.
    """
    name, space = f"teacher {type(teacher).__name__}", teacher.tokens
    _check_apart({name: network, **trained})
    c = conditions.to(teacher.encode_conditions(list(raw)), device)
    if (size := conditions.batch_size(c)) != len(raw):
        raise PluginError(f"{name}: encode_conditions gave {size} rows for {len(raw)} conditions")
    assert isinstance(network, Backbone)
    x, given = torch.full((len(raw), space.length), space.mask_id, device=device), space.given(c)
    x = given.put(x) if given else x
    generators = [module for module in trained.values() if isinstance(module, Generator)]
    with inference(network, *generators):
        z = network.logits(x, c, mask_ratio=torch.ones(len(raw), device=device))
        _check_logits(name, z, len(raw), space)
        for generator in generators:
            tokens = generator.sample(c, Draws(seed=0, phase="look", total=len(raw), device=device))
            if tokens.shape != x.shape or not 0 <= int(tokens.min()) <= int(tokens.max()) < space.columns:
                raise PluginError(
                    f"{type(generator).__name__}: sample gave {list(tokens.shape)} tokens from "
                    f"{int(tokens.min())} to {int(tokens.max())}; expected {list(x.shape)} of 0 .. "
                    f"{space.columns - 1}"
                )


def _check_logits(name: str, z: Tensor, count: int, space: TokenSpace) -> None:
    shape = (count, space.length, space.columns)
    if z.shape != shape:
        raise PluginError(
            f"{name}: its network gave logits {list(z.shape)}; expected {list(shape)}: samples, sites, and"
            " codes of `tokens` (one more only with scores_mask)"
        )
    forbidden = space.restrict(torch.zeros_like(z)) < 0
    if not bool((z[forbidden] == -torch.inf).all()):
        raise PluginError(
            f"{name}: its network gave logits to codes that `tokens` forbids; end its head with "
            "tokens.restrict(z, rows)"
        )
    if not bool(z[~forbidden].isfinite().all()):
        raise PluginError(f"{name}: its logits of all masks are not finite. Are its weights whole?")


def _check_apart(modules: Mapping[str, nn.Module]) -> None:
    """Trained weights belong to one module alone."""
    owner: dict[int, tuple[str, bool]] = {}
    for part, module in modules.items():
        for name, p in module.named_parameters():
            if p.is_meta or p.numel() == 0:
                continue
            other, learns = owner.setdefault(p.data_ptr(), (part, p.requires_grad))
            if other != part and (learns or p.requires_grad):
                raise PluginError(
                    f"the weight {name!r} of {part} is that of {other}: training one would change the other."
                    " `network()` must give copies; only `network(share=True)` may share."
                )
