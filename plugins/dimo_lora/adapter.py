"""``Adapter``: low-rank adapters on linear modules of the teacher's network, whose tensors are shared.

W x becomes W x + (alpha / rank) B A x. W is the teacher's own tensor, in memory once for teacher, generator
and auxiliary; A and B are trained. B starts as zero, so that the network starts as the teacher.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import attrs
import torch
from attrs import validators as v
from attrs.converters import optional
from torch import Tensor, nn

from dimo_core.backbone import Backbone
from dimo_core.errors import MissingLibraryError, UsageError, nearest
from dimo_core.libraries import FAILURES, import_beside_torchvision
from dimo_core.teacher import Teacher

NAME = "default"
"""What peft calls the one adapter of a module."""


@attrs.frozen(kw_only=True, eq=False)
class Adapted:
    """A network with adapters.

    Attributes:
        network: Its state, ``state_dict()``, is that of the adapters alone.
        weights: The teacher's name of the weight that each adapted module changes, by module.
    """

    network: Backbone
    weights: Mapping[str, str]

    @torch.no_grad()
    def merged(self, teacher: Teacher) -> Backbone:
        """A copy of the teacher's network to whose weights what the adapters learnt is added, on the CPU."""
        whole = teacher.network()
        for module, weight in self.weights.items():
            layer: Any = self.network.get_submodule(module)
            own = whole.get_parameter(weight)
            own.add_(layer.get_delta_weight(NAME).to(own))
        return whole


@attrs.frozen(kw_only=True, slots=False)
class Adapter:
    """How the adapters are made.

    Attributes:
        rank: Rows of A and columns of B.
        alpha: B A counts alpha / rank times; where alpha stays the same, the learning rate fits other ranks
            too.
        dropout: Dropout probability of what the adapters see, in training mode (``objective.dropout``).
        targets: The linear modules that get adapters, by the ends of their names; null for all that the
            teacher's network names.
        seed: Seed of the values that A starts with.
    """

    rank: int = attrs.field(default=16, validator=v.ge(1))
    alpha: float = attrs.field(default=16.0, validator=v.gt(0))
    dropout: float = attrs.field(default=0.0, validator=[v.ge(0), v.lt(1)])
    targets: tuple[str, ...] | None = attrs.field(
        default=None, converter=optional(tuple), validator=v.optional(v.min_len(1))
    )
    seed: int = attrs.field(default=0, validator=v.ge(0))

    def adapt(self, teacher: Teacher, *, skeleton: bool = False) -> Adapted:
        """Adapters around the teacher's shared tensors.

        Args:
            teacher: The teacher.
            skeleton: True builds the modules without reading weights.

        Raises:
            UsageError: when the network has no such modules, or names none.
            MissingLibraryError: when peft does not load.
        """
        lora = _library("peft.tuners.lora")
        network = teacher.skeleton() if skeleton else teacher.network(share=True)
        names = {id(parameter): name for name, parameter in network.named_parameters()}
        config = lora.LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self._chosen(network.adapter_targets(), type(teacher).__name__),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            _library("peft").inject_adapter_in_model(config, network, NAME)
        for parameter in network.parameters():
            if parameter.requires_grad and parameter.dtype.itemsize < 4:  # those of a base in half precision
                parameter.data = parameter.data.float()
        own = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
        _keep(network, own)
        layers = {name: m for name, m in network.named_modules() if isinstance(m, lora.LoraLayer)}
        weights = {name: names[id(m.get_base_layer().weight)] for name, m in layers.items()}
        return Adapted(network=network, weights=weights)

    def _chosen(self, offered: tuple[str, ...], teacher: str) -> list[str]:
        """The targets, of those that the network offers."""
        if not offered:
            raise UsageError(
                f"teacher {teacher} names no modules that adapters could change (Backbone.adapter_targets). "
                "Use --generator one_step and --auxiliary denoiser."
            )
        for target in self.targets or ():
            if target not in offered:
                raise UsageError(
                    f"targets: the network of teacher {teacher} has no module {target!r} for adapters. It "
                    f"has: {', '.join(offered)}.{nearest(target, offered)}"
                )
        return [*(self.targets or offered)]


def _keep(network: nn.Module, own: set[str]) -> None:
    """Let the network's state be that of its own tensors; all others are the teacher's."""
    mine = tuple(own)
    others = tuple(name for name in network.state_dict() if name not in own)

    def saved(_: nn.Module, state: dict[str, Tensor], prefix: str, __: Any) -> None:
        for name in others:
            del state[f"{prefix}{name}"]

    def loaded(_: nn.Module, keys: Any) -> None:
        missing = keys.missing_keys
        missing[:] = [name for name in missing if name.endswith(mine) or not name.endswith(others)]

    network.register_state_dict_post_hook(saved)
    network.register_load_state_dict_post_hook(loaded)


def _library(name: str) -> ModuleType:
    """A module of peft.

    Raises:
        MissingLibraryError: if it is not installed, or does not load.
    """
    try:
        return import_beside_torchvision(name)
    except FAILURES as error:
        raise MissingLibraryError(
            f"adapters are made by peft, which does not load ({type(error).__name__}: {error}). Install it "
            'with libraries that fit each other: pip install --upgrade "dimo[lora]"'
        ) from error
