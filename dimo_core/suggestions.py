"""What a teacher proposes, naming plugins: how its samples are judged, and named ways to sample it."""

from collections.abc import Mapping
from typing import Any

import attrs
from attrs import validators as v

Recipe = Mapping[str, Any]
"""A preset: nested option values, in the shape of a config file."""


@attrs.frozen
class Choice:
    """A plugin by registry name, with options that differ from its defaults.

    Attributes:
        name: Registered name.
        options: Values by option name.
    """

    name: str
    options: Mapping[str, Any] = attrs.field(factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """``{"name": ..., **options}``, the form that YAML holds."""
        return {"name": self.name, **self.options}

    @classmethod
    def from_dict(cls, data: "Mapping[str, Any] | str") -> "Choice":
        """Read the YAML form; a bare string is a name without options."""
        if isinstance(data, str):
            return cls(data)
        options = dict(data)
        return cls(options.pop("name"), options)


def as_plain(value: Any) -> Any:
    """A field's value as plain data."""
    if isinstance(value, Choice):
        return value.as_dict()
    return [as_plain(item) for item in value] if isinstance(value, tuple) else value


@attrs.frozen(kw_only=True)
class EvaluationPlan:
    """How samples of this teacher are judged, by registry names.

    Attributes:
        data: The reference samples; None when every metric is exact.
        split: The part of ``data`` that serves as reference: held out, never trained on.
        floor_split: Another real part, judged like a generator: the real-against-real floor. Empty for none.
        features: The feature extractor for metrics that need one.
        metrics: What to compute.
        conditions: What is sampled for when no run says otherwise.
        samples: How many samples are drawn for each row of the table.
        steps: Step counts of the teacher's rows.
        sampler: The multi-step sampler of the teacher's rows.
        guidance: Its guidance.
        best: Metric by which ``best`` is kept, prefixed with ``-`` where larger is better.
        shown: Metrics in the order of the table's columns; others follow.
    """

    metrics: tuple[Choice, ...]
    best: str
    data: Choice | None = None
    split: str = ""
    floor_split: str = ""
    features: Choice | None = None
    conditions: Choice = Choice("labels")
    samples: int = 2000
    steps: tuple[int, ...] = (16, 8, 4, 2, 1)
    sampler: Choice = Choice("maskgit")
    guidance: Choice = Choice("constant")
    shown: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for YAML."""
        return {field.name: as_plain(getattr(self, field.name)) for field in attrs.fields(type(self))}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "EvaluationPlan":
        """Read what ``as_dict`` gives."""
        plan: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        for name in {"data", "features", "sampler", "guidance", "conditions"} & plan.keys():
            plan[name] = plan[name] and Choice.from_dict(plan[name])
        plan["metrics"] = tuple(map(Choice.from_dict, plan["metrics"]))
        return cls(**plan)


ASSUMED = EvaluationPlan(metrics=(), best="")
"""How a teacher that has no plan is sampled."""


@attrs.frozen(kw_only=True)
class Sampling:
    """A named way to sample the teacher in many steps, by registry names.

    Attributes:
        steps: Number of steps.
        sampler: The multi-step sampler.
        guidance: Its guidance.
        source: Where it was published, and the numbers that were reported there, if any.
    """

    steps: int = attrs.field(validator=v.ge(1))
    sampler: Choice
    guidance: Choice
    source: str
