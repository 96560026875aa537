"""What a teacher proposes, naming plugins: how its samples are judged, and named ways to sample it."""

from collections.abc import Mapping
from typing import Any

import attrs
from attrs import validators as v

from dimo_core.errors import CheckpointError, message
from dimo_core.options import plain

UNREGISTERED = "python:"
"""Begins the recorded name of an object that no plugin registers."""

Recipe = Mapping[str, Any]
"""A preset: nested option values, in the shape of a config file."""


@attrs.frozen
class Choice:
    """A plugin by registry name, with options that differ from its defaults.

    Attributes:
        name: Registered name, or ``python:module.Class`` of an object that need not be registered.
        options: Values by option name.
        plugin: That object; None for what is registered.
    """

    name: str
    options: Mapping[str, Any] = attrs.field(factory=dict)
    plugin: object = attrs.field(default=None, eq=False, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """``{"name": ..., **options}``, the form that YAML holds."""
        return {"name": self.name, **self.options}

    @classmethod
    def from_dict(cls, data: "Mapping[str, Any] | str | Choice | object") -> "Choice":
        """Read the YAML form; a bare string is a name without options, and a choice is itself.

        A finished options object, such as a metric of a notebook, stands for itself: files record its class
        and options, and cannot build it again.

        Raises:
            ValueError: for anything else.
        """
        if isinstance(data, Choice):
            return data
        if attrs.has(made := type(data)):
            return cls(f"{UNREGISTERED}{made.__module__}.{made.__qualname__}", plain(data), plugin=data)
        if isinstance(data, str):
            return cls(data)
        if not isinstance(data, Mapping) or "name" not in data:
            raise ValueError(f"expected a name, or a mapping with 'name' and options, got {data!r}")
        return cls(data["name"], {key: value for key, value in data.items() if key != "name"})


def choice(value: Any) -> Choice | None:
    """A choice in its YAML form, or none."""
    return None if value is None else Choice.from_dict(value)


def choices(value: Any) -> tuple[Choice, ...]:
    """One or several choices in their YAML form."""
    return tuple(map(Choice.from_dict, several(value)))


def several(value: Any) -> tuple[Any, ...]:
    """A list, or one value, as a tuple."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def as_plain(value: Any) -> Any:
    """A field's value as plain data."""
    if isinstance(value, Choice):
        return value.as_dict()
    return [as_plain(item) for item in value] if isinstance(value, tuple) else value


@attrs.frozen(kw_only=True)
class Measures:
    """What samples are judged by, and for which conditions they are drawn; names are those of the registry.

    Attributes:
        samples: How many samples are drawn for each row and seed.
        data: The reference samples; None when every metric is exact.
        split: The part of ``data`` that serves as reference: held out, never trained on.
        floor_split: Another real part, judged like a model's samples: the real-against-real floor. Empty for
            none.
        features: The feature extractor for metrics that need one.
        metrics: What to compute.
        conditions: What is sampled for when no run says otherwise, evenly spread: the class balance.
        best: Metric that decides, prefixed with ``-`` where larger is better.
        shown: Metrics in the order of the table's columns; others follow.
    """

    metrics: tuple[Choice, ...] = attrs.field(converter=choices)
    best: str
    samples: int = attrs.field(default=2000, validator=[v.instance_of(int), v.gt(1)])
    data: Choice | None = attrs.field(default=None, converter=choice)
    split: str = ""
    floor_split: str = ""
    features: Choice | None = attrs.field(default=None, converter=choice)
    conditions: Choice = attrs.field(default=Choice("labels"), converter=choice)
    shown: tuple[str, ...] = attrs.field(default=(), converter=several)

    def whose(self, teacher: object) -> str:
        """Who answers for what it names: ``the evaluation plan of teacher MaskGit``; empty for its user."""
        return f"the evaluation plan of teacher {type(teacher).__name__}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for YAML; the class takes it as keywords."""
        return {field.name: as_plain(getattr(self, field.name)) for field in attrs.fields(type(self))}


@attrs.frozen(kw_only=True)
class EvaluationPlan(Measures):
    """How samples of this teacher are judged, and the rows of its table.

    Attributes:
        steps: Step counts of the teacher's rows.
        sampler: The multi-step sampler of the teacher's rows.
        guidance: Its guidance.
    """

    steps: tuple[int, ...] = attrs.field(
        default=(16, 8, 4, 2, 1), converter=several, validator=v.deep_iterable([v.instance_of(int), v.ge(1)])
    )
    sampler: Choice = attrs.field(default=Choice("maskgit"), converter=choice)
    guidance: Choice = attrs.field(default=Choice("constant"), converter=choice)

    @classmethod
    def of_card(cls, data: Any, source: str) -> "EvaluationPlan | None":
        """The section ``evaluation`` of a teacher's card; None where it is empty.

        Raises:
            CheckpointError: when it is no plan.
        """
        try:
            return cls(**data) if data else None
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{source}, section 'evaluation': {message(error)}") from error


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


def listing(samplings: Mapping[str, Sampling]) -> dict[str, str]:
    """Steps and source of each sampling, as people read them."""
    return {
        name: f"{sampling.steps} {'step' if sampling.steps == 1 else 'steps'}. {sampling.source}"
        for name, sampling in samplings.items()
    }
