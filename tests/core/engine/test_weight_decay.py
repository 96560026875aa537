"""Which parameters are decayed: the module that holds one decides, not the names around it."""

from typing import Any

import pytest
import torch
from torch import nn

from dimo_core.engine.part_state import PartState, decayed
from dimo_core.objective import Optimisation, Part


def names(module: nn.Module) -> set[str]:
    weights = decayed(module)
    return {n for n, p in module.named_parameters() if p in weights}


class Scale(nn.Module):
    def __init__(self, **parameters: Any) -> None:
        super().__init__()
        for name, shape in parameters.items():
            setattr(self, name, nn.Parameter(torch.zeros(shape)))


class GainNorm(Scale):
    """A norm of one's own, its gains shaped for images."""


class Positions(nn.Embedding):
    pass


class AdaptiveNorm(nn.Module):
    """Its gains come from a linear layer, which is no norm itself."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 4)


class Mixed(Scale):
    """Holds a weight of its own beside a norm."""

    def __init__(self) -> None:
        super().__init__(weight=(2, 2))
        self.inner = nn.LayerNorm((2, 2))


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Linear(2, 3), {"weight"}),
        (nn.Conv2d(2, 3, 2), {"weight"}),
        (nn.ConvTranspose1d(2, 3, 2), {"weight"}),
        (nn.Bilinear(2, 3, 4), {"weight"}),
        (nn.LSTM(2, 3), {"weight_ih_l0", "weight_hh_l0"}),
        (nn.MultiheadAttention(4, 2, add_bias_kv=True), {"in_proj_weight", "out_proj.weight"}),
        (
            nn.MultiheadAttention(4, 2, kdim=3),
            {"q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"},
        ),
        (
            Scale(kernel=(2, 2), weight=(1, 2), scale=(2, 2), mask_token=(1, 1, 2), pos_embed=(1, 4, 2)),
            {"kernel", "weight"},
        ),
        (Scale(weight=(3,)), set()),
        (nn.Embedding(3, 2), set()),
        (Positions(3, 2), set()),
        (nn.EmbeddingBag(3, 2), set()),
        (nn.LayerNorm((2, 3)), set()),
        (nn.RMSNorm((2, 3)), set()),
        (nn.GroupNorm(2, 4), set()),
        (nn.BatchNorm2d(3), set()),
        (GainNorm(weight=(1, 3, 1, 1)), set()),
        (AdaptiveNorm(), {"linear.weight"}),
        (Mixed(), {"weight"}),
        (nn.PReLU(3), set()),
    ],
)
def test_weights_of_modules_are_decayed_and_nothing_else(module: nn.Module, expected: set[str]) -> None:
    assert names(module) == expected


def test_names_of_the_modules_around_do_not_count() -> None:
    module = nn.ModuleDict({"embedder_norm": nn.Linear(2, 2), "weights": nn.Embedding(2, 2)})
    assert names(module) == {"embedder_norm.weight"}


@pytest.mark.parametrize("order", [("table", "head"), ("head", "table")])
def test_a_head_that_is_tied_to_an_embedding_is_not_decayed(order: tuple[str, str]) -> None:
    modules = {"table": nn.Embedding(3, 2), "head": nn.Linear(2, 3, bias=False)}
    modules["head"].weight = modules["table"].weight
    assert names(nn.ModuleDict({name: modules[name] for name in order})) == set()


def test_a_weight_that_two_layers_share_is_decayed_once() -> None:
    first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    second.weight = first.weight
    s = PartState("p", Part(module=nn.Sequential(first, second), optimisation=Optimisation(weight_decay=0.5)))
    sizes = [(len(group["params"]), group["weight_decay"]) for group in s.optimizer.param_groups]
    assert sizes == [(1, 0.5), (0, 0.0)]
