"""Protocols: what makes numbers of different rows, runs and people comparable, under a name."""

import json
import re
from collections.abc import Mapping
from typing import Any

import attrs
from attrs import validators as v

from dimo_core.errors import ConfigError, UnknownNameError, UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.weights import sha256
from dimo_core.suggestions import Choice, EvaluationPlan, as_plain

BLOCK = 500
"""Samples whose random numbers are drawn together, as in the table of a run: batch size changes no sample."""

CHANGED = ", changed"
"""Ends the name of a protocol of which options were overridden."""

HASHES = ("fingerprint", "files", "prompts")
"""Facts of a protocol that are hashes of what its options refer to."""

APART = "Judge with two protocols, each with its own --out, and join them with `dimo compare --merge`."
"""What to do where the numbers of two metrics have one name."""

OF_PLAN = ("data", "split", "floor_split", "features", "metrics", "conditions", "samples", "best", "shown")
"""What a protocol takes from the teacher's evaluation plan."""

NAMED: Mapping[str, Mapping[str, Any]] = {
    "plan": {},
    "quick": {"samples": 500},
    "paper-5k": {"samples": 5000},
    "paper-50k": {"samples": 50000},
}
"""Named protocols: what each changes of the teacher's evaluation plan, which holds the reference, the
extractor and the metrics. ``paper-50k`` and ``paper-5k`` have the sample counts of the Di[M]O paper's
benchmark and of its ablations, the same number for each class."""


def _choices(value: Any) -> tuple[Choice, ...]:
    listed = value if isinstance(value, list | tuple) else [value]
    return tuple(map(_named, listed))


def _choice(value: Any) -> Choice | None:
    return None if value is None else _named(value)


def _named(value: Any) -> Choice:
    if isinstance(value, Choice):
        return value
    if isinstance(value, str) or (isinstance(value, Mapping) and "name" in value):
        return Choice.from_dict(value)
    raise ValueError(f"expected a name, or a mapping with 'name' and options, got {value!r}")


def _distinct(_instance: object, field: "attrs.Attribute[Any]", value: tuple[Any, ...]) -> None:
    if len(set(value)) < len(value):
        raise ValueError(f"'{field.name}' must differ from one another, got {list(value)}")


def _several(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _one_of_each(_instance: object, _field: "attrs.Attribute[Any]", value: tuple[Choice, ...]) -> None:
    names = [choice.name for choice in value]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"'metrics' has {', '.join(map(repr, twice))} more than once; their numbers have the same names. "
            f"{APART}"
        )


@attrs.frozen(kw_only=True)
class Protocol:
    """How samples are drawn and judged; not which ones.

    Attributes:
        name: Its name; it changes no number.
        samples: Samples for each row and seed.
        seeds: Seeds of the draws; a row is the mean over them.
        conditions: Source of the conditions, evenly spread: the class balance.
        data: The reference samples; null when every metric is exact.
        split: The part of ``data`` that serves as reference.
        floor_split: Another real part, judged like a model's samples; empty for none.
        features: The feature extractor.
        metrics: What is computed.
        best: Metric that decides, prefixed with ``-`` where larger is better.
        shown: Metrics whose columns come first.
        temperatures: Sampling temperatures of generators, a row for each; empty for each generator's own.
        block: Samples whose random numbers are drawn together.
    """

    name: str
    samples: int = attrs.field(default=2000, validator=[v.instance_of(int), v.gt(1)])
    seeds: tuple[int, ...] = attrs.field(
        default=(0,),
        converter=_several,
        validator=[v.min_len(1), v.deep_iterable(v.instance_of(int)), _distinct],
    )
    conditions: Choice = attrs.field(default=Choice("labels"), converter=_choice)
    data: Choice | None = attrs.field(default=None, converter=_choice)
    split: str = ""
    floor_split: str = ""
    features: Choice | None = attrs.field(default=None, converter=_choice)
    metrics: tuple[Choice, ...] = attrs.field(converter=_choices, validator=[v.min_len(1), _one_of_each])
    best: str = ""
    shown: tuple[str, ...] = attrs.field(default=(), converter=_several)
    temperatures: tuple[float, ...] = attrs.field(
        default=(), converter=_several, validator=v.deep_iterable(v.gt(0))
    )
    block: int = attrs.field(default=BLOCK, validator=[v.instance_of(int), v.gt(0)])

    @classmethod
    def resolve(
        cls, plan: EvaluationPlan | None, name: str = "plan", changes: Mapping[str, Any] | None = None
    ) -> "Protocol":
        """A named protocol, or one of a file, on top of a teacher's evaluation plan.

        Args:
            plan: The teacher's; None when it has none.
            name: One of ``NAMED``, or the path or URL of a YAML file that holds fields of this class. A file
                that has the name of one of these without its values counts as changed.
            changes: Fields that override both; a metric without options has those of the plan.

        Raises:
            UsageError: for an unknown name, or when nothing says what to measure.
            ConfigError: for a field that does not exist or a wrong value.
        """
        base = {} if plan is None else {key: getattr(plan, key) for key in OF_PLAN}
        asked = dict(_of_file(name) if re.search(r"\.(ya?ml|json)$", name) else _of_name(name))
        values = base | {"name": name} | asked
        changed = {key: value for key, value in (changes or {}).items() if value is not None}
        if "metrics" in changed and plan is not None:
            own = {choice.name: choice for choice in plan.metrics}
            named = _choices(changed["metrics"])
            changed["metrics"] = tuple(m if m.options else own.get(m.name, m) for m in named)
        if unknown := sorted({*asked, *changed} - {field.name for field in attrs.fields(cls)}):
            known = ", ".join(field.name for field in attrs.fields(cls))
            raise ConfigError(f"protocol {name!r} has unknown keys: {', '.join(unknown)}. Known: {known}")
        if not {**values, **changed}.get("metrics"):
            raise UsageError(
                "nothing says what to measure: this teacher brings no evaluation plan. Name metrics with "
                "--metrics (`dimo plugins metric` lists them), or give --protocol FILE.yaml with metrics, "
                "data, split and features."
            )
        try:
            before = cls(**{"metrics": Choice("?"), **values})
            made = attrs.evolve(before, **changed)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"protocol {name!r}: {error}") from error
        same = all(getattr(before, key) == getattr(made, key) for key in changed)
        same = same and not _claims(before, base)
        return made if same or made.name.endswith(CHANGED) else attrs.evolve(made, name=made.name + CHANGED)

    def plan(self) -> EvaluationPlan:
        """What a judge needs of it."""
        return EvaluationPlan(**{key: getattr(self, key) for key in OF_PLAN})

    def as_dict(self) -> dict[str, Any]:
        """Plain data; ``resolve`` reads it from a file."""
        return {field.name: as_plain(getattr(self, field.name)) for field in attrs.fields(type(self))}


def _claims(protocol: Protocol, base: Mapping[str, Any]) -> bool:
    """Whether it has the name of one of ``NAMED`` without being that, on top of the fields of a plan."""
    if protocol.name not in NAMED:
        return False
    values = {"metrics": Choice("?"), **base, **NAMED[protocol.name], "name": protocol.name}
    return digest(Protocol(**values).as_dict()) != digest(protocol.as_dict())  # lists and tuples are the same


def digest(facts: Mapping[str, Any]) -> str:
    """A short hash of a protocol's facts; its name does not count."""
    counted = {name: value for name, value in facts.items() if name != "name"}
    return sha256(json.dumps(counted, sort_keys=True, default=str).encode())[:16]


def completes(now: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether protocols differ only in hashes of what ``before`` did not know, such as missing weights.

    Args:
        now: Facts, as plain data.
        before: Others.
    """
    new, old = dict(_flat(now)), dict(_flat(before))
    changed = [name for name in {*new, *old} if new.get(name) != old.get(name)]
    return all(name.partition(".")[0] in HASHES and old.get(name) is None for name in changed)


def differences(protocols: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """In which facts protocols differ, such as ``samples (3000 | 500)``; their names do not count.

    Args:
        protocols: Facts by digest.
    """
    flat = [dict(_flat(facts)) for facts in protocols.values()]
    names = dict.fromkeys(name for facts in flat for name in facts if name != "name")
    found = []
    for name in names:
        values = [str(facts.get(name)) for facts in flat]
        if len(set(values)) > 1:
            found.append(f"{name} ({' | '.join(dict.fromkeys(values))})")
    return found


def _flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        return [
            pair
            for key, inner in value.items()
            for pair in _flat(inner, f"{name}.{key}" if name else str(key))
        ]
    return [(name, value)]


def _of_name(name: str) -> Mapping[str, Any]:
    if name not in NAMED:
        raise UnknownNameError("protocol", name, NAMED, "Or give the path of a YAML file.")
    return NAMED[name]


def _of_file(path: str) -> Mapping[str, Any]:
    parent, _, file = path.rpartition("/")
    try:
        data = Folder(parent or ".").read_yaml(file)
    except FileNotFoundError as error:
        raise UsageError(f"no protocol file {path!r}. Named protocols: {', '.join(NAMED)}.") from error
    except Exception as error:
        raise ConfigError(f"cannot read protocol file {path!r}: {error}") from error
    if not isinstance(data, Mapping):
        raise ConfigError(f"protocol file {path!r} must hold a mapping of fields, got {type(data).__name__}")
    return {str(key): value for key, value in data.items()}
