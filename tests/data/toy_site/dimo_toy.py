"""Toy plugins: options of many types, recipes, an evaluation plan, and nothing that computes."""

from pathlib import Path
from typing import Literal

import attrs
from attrs import validators as v

from dimo_core.choice import Choice
from dimo_core.conditions import Conditioning
from dimo_core.divergence import Divergence
from dimo_core.metric import Metric
from dimo_core.sampler import Sampler
from dimo_core.sources import Conditions, Data
from dimo_core.suggestions import EvaluationPlan, Sampling
from dimo_core.teacher import Teacher
from dimo_core.tokens import TokenSpace


@attrs.frozen(kw_only=True)
class Shape:
    """The shape of a toy.

    Attributes:
        corners: Number of corners.
        colour: Its colour.
    """

    corners: int = attrs.field(default=3, validator=v.ge(3))
    colour: Literal["red", "blue"] = "red"


class _Base(Teacher):
    @property
    def tokens(self):
        return TokenSpace(length=2, codes=2, mask_id=2)

    @property
    def conditioning(self):
        return Conditioning(kind="label", classes=("heads", "tails"))

    def network(self, *, share=False):
        raise NotImplementedError

    def skeleton(self):
        raise NotImplementedError

    def encode_conditions(self, raw):
        raise NotImplementedError

    def recipes(self):
        return {}

    def evaluation(self):
        return None


@attrs.frozen(kw_only=True)
class Toy(_Base):
    """A toy teacher.

    Attributes:
        depth: Number of layers.
        rate: A rate between 0 % and 100 %.
        path: Where it is.
        widths: Width of each layer.
        names: Names by number.
        shape: Its shape.
    """

    depth: int = attrs.field(default=2, validator=v.gt(0))
    rate: float | None = None
    path: Path = Path("here")
    widths: tuple[int, ...] = (8, 8)
    names: dict[str, int] = attrs.field(factory=dict)
    shape: Shape = attrs.field(factory=lambda: Shape(corners=4))

    pretraining_options = Shape

    def recipes(self):
        common = {"conditions": "coin", "divergence": {"name": "tilted", "beta": 0.25}}
        return {
            "fast": {**common, "guidance": {"name": "constant", "scale": 2.0}, "train": {"steps": 10}},
            "paper": {**common, "teacher": {"depth": 9}, "objective": {"generator": {"lr": 0.5}}},
        }

    def samplings(self):
        guidance = Choice("ramp", {"scale": 3.0})
        return {
            "slow": Sampling(
                steps=8,
                sampler=Choice("stepper", {"stride": self.depth}),
                guidance=guidance,
                source="Toys, 1st volume: 5 of 6 children",
            ),
            "quick-1": Sampling(
                steps=1, sampler=Choice("stepper"), guidance=Choice("constant"), source="100% new"
            ),
        }

    def evaluation(self):
        return EvaluationPlan(metrics=(), best="", sampler=Choice("stepper", {"stride": self.depth}))


@attrs.frozen(kw_only=True)
class Picky(_Base):
    """A teacher that must be told its file.

    Attributes:
        file: The file to read.
    """

    file: str

    def recipes(self):
        return {"only": {"conditions": "coin", "sampler": "stepper", "divergence": "flat"}}


@attrs.frozen(kw_only=True)
class Careless(_Base):
    """A teacher whose recipe names an option that does not exist."""

    def recipes(self):
        return {"only": {"conditions": "coin", "sampler": "stepper", "guidance": {"strength": 2}}}


@attrs.frozen(kw_only=True)
class Flat(Divergence):
    """A divergence without options."""

    def value(self, log_p, log_q):
        raise NotImplementedError


@attrs.frozen(kw_only=True)
class Tilted(Divergence):
    """A divergence with one.

    Attributes:
        beta: How much.
    """

    beta: float = 0.0

    def value(self, log_p, log_q):
        raise NotImplementedError


@attrs.frozen(kw_only=True)
class Coin(Conditions):
    """Heads or tails.

    Attributes:
        bias: Share of heads.
    """

    bias: float = attrs.field(default=0.5, validator=[v.ge(0), v.le(1)])

    def open(self, conditioning, *, seed):
        raise NotImplementedError

    def balanced(self, conditioning, count):
        raise NotImplementedError


@attrs.frozen(kw_only=True)
class Stepper(Sampler):
    """A sampler.

    Attributes:
        stride: Steps at a time.
    """

    stride: int = 1

    def sample(self, teacher, network, c, *, steps, guidance, draws, keep_trajectory=False):
        raise NotImplementedError


@attrs.frozen(kw_only=True)
class Dots(Data):
    """Dots.

    Attributes:
        count: How many.
    """

    count: int = 5

    def splits(self):
        return ("train",)

    def load(self, split):
        raise NotImplementedError


@attrs.frozen(kw_only=True)
class Abstract(Metric):
    """A metric that computes nothing."""


class Plain(Metric):
    """A metric that is no attrs class."""

    def compute(self, samples, reference, teacher):
        return {}


@attrs.frozen(kw_only=True, auto_attribs=False)
class Untyped(Plain):
    """A metric with an option that nobody can read."""

    level = attrs.field(default=1)


@attrs.define(kw_only=True)
class Mutable(Plain):
    """A metric whose option may change after it was checked."""

    level: int = 1
