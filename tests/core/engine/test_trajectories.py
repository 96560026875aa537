"""Twenty steps of each objective in float64, against trajectories that were written down.

Nothing proves these numbers; they show that a change which should change nothing did not. After one that
should, look at what else says that it is right, then write them down again::

    python tests/core/engine/test_trajectories.py
"""

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from dimo_core.backbone import Backbone
from dimo_core.conditions import Conditioning
from dimo_core.data.feeds import Feed
from dimo_core.engine.loop import Engine
from dimo_core.files.folder import Folder
from dimo_core.guidance import Constant
from dimo_core.method.denoiser import Denoiser
from dimo_core.method.dimo import Dimo
from dimo_core.method.masked_modelling import MaskedModelling
from dimo_core.method.one_step import OneStep
from dimo_core.objective import Batch, Ingredients, ObjectiveOptions, Optimisation
from dimo_core.settings import Train
from dimo_core.teacher import Teacher
from dimo_core.tokens import TokenSpace
from dimo_divergences import FKL, Jeffrey
from dimo_maskgit.recipes import RECIPES as MASKGIT
from dimo_maskgit.transformer import Architecture, MaskTransformer
from dimo_meissonic.recipes import RECIPES as MEISSONIC

FILE = Path(__file__).parents[2] / "data" / "trajectories.json"
STEPS, BATCH = 20, 8
TINY = Architecture(width=12, depth=1, heads=2, mlp=16, dropout=0.1, grid=3, codes=7, classes=3)


@attrs.frozen(kw_only=True)
class TinyMaskGit(Teacher):
    """A small MaskGIT of made-up weights.

    Attributes:
        keep: Whether the mask token is scored.
    """

    keep: bool = False

    capabilities = frozenset({"guidance"})

    @property
    def tokens(self) -> TokenSpace:
        return TokenSpace(length=9, codes=7, mask_id=7, scores_mask=self.keep)

    @property
    def conditioning(self) -> Conditioning:
        return Conditioning(kind="label", classes=("a", "b", "c"))

    def network(self, *, share: bool = False) -> Backbone:
        network = self.skeleton().double().eval()
        with torch.no_grad():
            for k, (name, p) in enumerate(network.named_parameters()):
                p.copy_(0.7 * waves(p, k + 1) + (1.0 if "weight" in name and p.ndim == 1 else 0.0))
        return network

    def skeleton(self) -> Backbone:
        return MaskTransformer(TINY, self.tokens.columns)

    def encode_conditions(self, raw: Sequence[Any]) -> Tensor:
        return torch.tensor(list(raw))

    def null_condition(self, c: Tensor) -> Tensor:
        return torch.full_like(c, 3)

    def frozen_parameters(self) -> tuple[str, ...]:
        return ("tok_emb.weight", "pos_emb")

    def recipes(self) -> Mapping[str, Any]:
        return {}

    def evaluation(self) -> None:
        return None


def waves(like: Tensor, k: int) -> Tensor:
    """Made-up numbers between -1 and 1 of a tensor's shape, without a random generator."""
    return (torch.arange(like.numel(), dtype=torch.float64) * (1.7 + 0.13 * k) + k).cos().view(like.shape)


class Rows(Feed):
    """A condition and nine tokens for each position."""

    def read(self, start: int, count: int) -> Batch:
        at = torch.arange(start, start + count)
        tokens = (at[:, None] * 5 + torch.arange(9) * (1 + at[:, None] % 3)) % 7
        return Batch(conditions=at % 3, tokens=tokens)

    def valid(self, start: int, count: int) -> None:
        return None


@attrs.frozen(kw_only=True)
class Case:
    """What is trained, and with how many micro-batches."""

    objective: ObjectiveOptions
    ingredients: Ingredients
    accumulate: int = 1


def of_preset(recipe: Mapping[str, Any], accumulate: int) -> Case:
    """The choices of a preset; a short warm-up, so that these few steps reach the decay."""

    def given(section: str) -> dict[str, Any]:
        return {name: value for name, value in recipe.get(section, {}).items() if name != "name"}

    parts = ("generator", "auxiliary")
    objective = given("objective")
    optimised = {part: Optimisation(**{**objective[part], "warmup": 4}) for part in parts}
    return Case(
        objective=Dimo(**{**objective, **optimised}),
        ingredients=ingredients(
            teacher=TinyMaskGit(keep=recipe.get("teacher", {}).get("mask_logit") == "keep"),
            generator=OneStep(**given("generator")),
            auxiliary=Denoiser(**given("auxiliary")),
            divergence=Jeffrey(**given("divergence")),
            guidance=Constant(**given("guidance")),
        ),
        accumulate=accumulate,
    )


def ingredients(**changed: Any) -> Ingredients:
    usual = {"teacher": TinyMaskGit(), "generator": OneStep(), "auxiliary": Denoiser(label_smoothing=0.1)}
    return Ingredients(**{**usual, "divergence": FKL(), "guidance": Constant(scale=1.5), **changed})


CASES: dict[str, Case] = {
    "maskgit/small/fast": of_preset(MASKGIT["small"]["fast"], 1),
    "maskgit/small/paper": of_preset(MASKGIT["small"]["paper"], 1),
    "maskgit/imagenet/paper": of_preset(MASKGIT["imagenet"]["paper"], 1),
    "meissonic/small/fast": of_preset(MEISSONIC["small"]["fast"], 2),
    "meissonic/small/paper": of_preset(MEISSONIC["small"]["paper"], 1),
    "meissonic/published/paper": of_preset(MEISSONIC["published"]["paper"], 1),
    "dimo/dmd": Case(
        objective=Dimo(
            rollout="fresh",
            auxiliary_steps=2,
            weight="dmd",
            masking="bernoulli",
            ratio_bounds=(0.3, 0.6),
            generator=Optimisation(lr=2e-3, warmup=3, decay="cosine", weight_decay=0.1, ema=0.3, clip=0.01),
            auxiliary=Optimisation(lr=3e-3, warmup=0, decay="linear", lr_end=0.3, weight_decay=0.2),
        ),
        ingredients=ingredients(),
    ),
    "dimo/student": Case(
        objective=Dimo(
            weight="per_masked_token",
            jacobian="student",
            schedule="square",
            dropout=True,
            score_dropout=True,
            generator=Optimisation(lr=1e-3, warmup=2, ema=0.99),
            auxiliary=Optimisation(lr=1e-3, warmup=2),
        ),
        ingredients=ingredients(divergence=Jeffrey(beta=0.3)),
        accumulate=2,
    ),
    "masked-modelling/masked": Case(
        objective=MaskedModelling(
            masking="exact",
            label_smoothing=0.1,
            teacher=Optimisation(lr=2e-3, warmup=3, decay="cosine", ema=0.9),
        ),
        ingredients=Ingredients(teacher=TinyMaskGit()),
        accumulate=2,
    ),
    "masked-modelling/all": Case(
        objective=MaskedModelling(
            positions="all",
            schedule="cosine",
            label_dropout=0.4,
            teacher=Optimisation(lr=2e-3, warmup=3, weight_decay=0.1, beta2=0.99),
        ),
        ingredients=Ingredients(teacher=TinyMaskGit(keep=True)),
    ),
}


def trajectory(case: Case) -> dict[str, dict[str, float]]:
    """How far each part went and where to, its average and moments, and the log of the last step."""
    engine = Engine(
        case.objective.build(case.ingredients),
        {stream: Rows() for stream in case.objective.needs},
        Train(steps=STEPS, batch_size=BATCH, accumulate=case.accumulate),
        folder=Folder("memory://unused"),
        seed=5,
        device=torch.device("cpu"),
    )
    start = {name: copies(state.trained) for name, state in engine.states.items()}
    for _ in range(STEPS):
        logs = engine.take_step(watch=True)
    found = {"logs": {name: float(value) for name, value in sorted(logs.items())}}
    for name, state in engine.states.items():
        assert all(p.dtype == torch.float64 for p in state.trained.values())
        found[name] = digest("weights", start[name], state.trained) | digest(
            "average", start[name], state.average
        )
        for key in ("exp_avg", "exp_avg_sq"):
            moments = {n: state.optimizer.state[p][key] for n, p in state.trained.items()}
            found[name] |= digest(key, {n: torch.zeros_like(t) for n, t in moments.items()}, moments)
    return found


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: t.detach().clone() for n, t in tensors.items()}


def digest(what: str, start: Mapping[str, Tensor], end: Mapping[str, Tensor]) -> dict[str, float]:
    """Length of the way from start to end, and its product with made-up numbers, in which order counts."""
    ways = [(end[n].detach() - start[n]).flatten() for n in sorted(end)]
    if not ways:
        return {}
    way = torch.cat(ways)
    return {f"{what}.length": float(way.norm()), f"{what}.direction": float(way @ waves(way, 1) / way.norm())}


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="torch draws other normal numbers on this processor"
)
@pytest.mark.parametrize("name", CASES)
def test_the_trajectory_is_the_one_that_was_written_down(name: str) -> None:
    expected = json.loads(FILE.read_text())[name]
    found = trajectory(CASES[name])
    assert found.keys() == expected.keys()
    for part, values in expected.items():
        # Two processors of the kind that wrote them down differ by 2e-9 after twenty steps of Adam.
        assert found[part] == pytest.approx(values, rel=1e-7, abs=1e-12), part


def test_every_trajectory_has_a_case() -> None:
    assert json.loads(FILE.read_text()).keys() == CASES.keys()


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: trajectory(case) for name, case in CASES.items()}, indent=1) + "\n")
