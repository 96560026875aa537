"""The teacher ``gym``: it knows a joint distribution exactly, or has learnt it."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import attrs
import torch
from attrs import validators as v
from jaxtyping import Float, Int
from torch import Tensor, nn

from dimo_core.choice import Choice
from dimo_core.conditions import Conditioning
from dimo_core.errors import UsageError
from dimo_core.suggestions import EvaluationPlan, Recipe
from dimo_core.teacher import Teacher
from dimo_core.tokens import TokenSpace
from dimo_gym.joints import CONDITIONS, Joint, Known
from dimo_gym.learning import learnt
from dimo_gym.networks import GAIN, OneHot, Perceptron, Table
from dimo_gym.partial import conditionals

EVEN = 1e-6
"""Share of the exact teacher's joint that is spread evenly, so that no logit is infinite."""


@attrs.frozen(kw_only=True)
class GymTeacher(Known, Teacher):
    """A few tokens whose joint distribution is known exactly.

    Attributes:
        joint: table, markov, ising, halves or aligned, as in ``Known``.
        length: Sites L; null for the joint's own.
        codes: Codes V; null for the joint's own.
        strength: How strong the dependence is; null for the joint's own.
        seed: Fixes what is drawn at random.
        knows: exact: a table of the exact conditionals, up to a millionth that is spread evenly. learnt: a
            small perceptron that is trained on the joint for a few seconds, the same way every time.
        width: Of the perceptron.
        training: Steps that it is trained for.
        extra: Whether its networks take further tokens, as the generator ``mixture`` asks for. They have
            weights for them that start as zeros: the teacher is the same.
    """

    knows: Literal["exact", "learnt"] = "exact"
    width: int = attrs.field(default=64, validator=v.gt(0))
    training: int = attrs.field(default=600, validator=v.ge(0))
    extra: bool = False

    @property
    def tokens(self) -> TokenSpace:
        """Sites in a row, or on a square grid."""
        shape = self.shape
        side = math.isqrt(shape.length)
        grid = (side, side) if self.joint == "ising" else None
        return TokenSpace(length=shape.length, codes=shape.codes, mask_id=shape.codes, grid=grid)

    @property
    def conditioning(self) -> Conditioning:
        """Two classes."""
        return Conditioning(kind="label", classes=CONDITIONS)

    def skeleton(self) -> OneHot:
        """A table, or a perceptron."""
        if self.knows == "exact":
            return Table(self.tokens, extra=self.extra)
        return Perceptron(self.tokens, self.width, extra=self.extra)

    def believed(self) -> Joint:
        """The joint whose conditionals the exact teacher holds."""
        p = self.p()
        return (1 - EVEN) * p + EVEN / p.shape[1]

    @cached_property
    def _weights(self) -> dict[str, nn.Parameter]:
        if self.knows == "exact":
            shape = self.shape
            table = conditionals(self.believed(), shape.length, shape.codes).log().float() / GAIN
            return {"table": nn.Parameter(table, requires_grad=False)}
        network = learnt(self.p(), self.tokens, width=self.width, steps=self.training, seed=self.seed)
        return {name: nn.Parameter(p.detach(), requires_grad=False) for name, p in network.named_parameters()}

    def network(self, *, share: bool = False) -> OneHot:
        """The weights: the teacher's own tensors, or copies."""
        network = self.skeleton().eval()
        for name, tensor in self._weights.items():
            owner, _, own = name.rpartition(".")
            setattr(network.get_submodule(owner), own, tensor if share else nn.Parameter(tensor.clone()))
        return network

    def encode_conditions(self, raw: Sequence[Any]) -> Int[Tensor, " B"]:
        """0 and 1.

        Raises:
            UsageError: for anything else.
        """
        if wrong := [label for label in raw if label not in (0, 1)]:
            raise UsageError(f"the classes of the gym are 0 (first) and 1 (second), not {wrong[0]!r}")
        return torch.tensor(raw, dtype=torch.long)

    def recipes(self) -> Mapping[str, Recipe]:
        """One preset: some seconds on one core."""
        data = {field.name: getattr(self, field.name) for field in attrs.fields(Known)}
        lr = (2e-3, 6e-3) if self.knows == "exact" else (1e-3, 3e-3)
        return {
            "fast": {
                "divergence": {"name": "jeffrey", "beta": 0.2},
                "generator": {"name": "one_step", "sigma_init": 0.0},
                "data": {"name": "gym", **data},
                "objective": {
                    "name": "dimo",
                    "generator": {"lr": lr[0], "ema": 0.98, "warmup": 0, "clip": None},
                    "auxiliary": {"lr": lr[1], "warmup": 0, "clip": None},
                },
                "train": {"steps": 500, "batch_size": 256},
            }
        }

    def evaluation(self) -> EvaluationPlan:
        """Total variation from the known joint; no reference is needed."""
        return EvaluationPlan(
            metrics=(Choice("gym"),),
            best="tv",
            samples=8000,
            steps=(8, 4, 2, 1),
            sampler=Choice("random-order"),
            shown=("tv", "outside"),
        )

    def probabilities(self, network: OneHot, x: Int[Tensor, "M L"], c: int) -> Float[Tensor, "M L V"]:
        """Probabilities of all codes at all sites, in float64, under one condition.

        Args:
            network: This teacher's, or one of its shape.
            x: Partly masked sequences.
            c: The condition.
        """
        ratio = (x == self.tokens.mask_id).float().mean(1)
        with torch.no_grad():
            z = network.logits(x, torch.full((len(x),), c), mask_ratio=ratio)
        return z.double().softmax(-1)
