"""Protocols: what makes numbers of different rows, runs and people comparable, under a name."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
from attrs import validators as v

from dimo_core.errors import ConfigError, UnknownNameError, UsageError, message
from dimo_core.files.folder import Folder
from dimo_core.files.weights import sha256
from dimo_core.options import changed, flat
from dimo_core.suggestions import Choice, EvaluationPlan, Measures, choices, several
from dimo_core.texts import masked

BLOCK = 500
"""Samples whose random numbers are drawn together, as in the table of a run: batch size changes no sample."""

CHANGED = ", changed"
"""Ends the name of a protocol of which options were overridden."""

HASHES = ("fingerprint", "files", "prompts")
"""Facts of a protocol that are hashes of what its options refer to."""

APART = "Judge with two protocols, each with its own --out, and join them with `dimo compare --merge`."
"""What to do where the numbers of two metrics have one name."""

NAMED: Mapping[str, Mapping[str, Any]] = {
    "plan": {},
    "quick": {"samples": 500},
    "paper-5k": {"samples": 5000},
    "paper-50k": {"samples": 50000},
}
"""Named protocols: what each changes of the teacher's evaluation plan, which holds the reference, the
extractor and the metrics. ``paper-50k`` and ``paper-5k`` have the sample counts of the Di[M]O paper's
benchmark and of its ablations, the same number for each class."""


def _distinct(_instance: object, field: "attrs.Attribute[Any]", value: tuple[Any, ...]) -> None:
    if len(set(value)) < len(value):
        raise ValueError(f"'{field.name}' must differ from one another, got {list(value)}")


def _one_of_each(_instance: object, _field: "attrs.Attribute[Any]", value: tuple[Choice, ...]) -> None:
    names = [choice.name for choice in value]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"'metrics' has {', '.join(map(repr, twice))} more than once; their numbers have the same names. "
            f"{APART}"
        )


@attrs.frozen(kw_only=True)
class Protocol(Measures):
    """How samples are drawn and judged; not which ones.

    Attributes:
        name: Its name; it changes no number.
        seeds: Seeds of the draws; a row is the mean over them.
        temperatures: Sampling temperatures of generators, a row for each; empty for each generator's own.
        block: Samples whose random numbers are drawn together.
    """

    name: str
    seeds: tuple[int, ...] = attrs.field(
        default=(0,),
        converter=several,
        validator=[v.min_len(1), v.deep_iterable([v.instance_of(int), v.ge(0)]), _distinct],
    )
    metrics: tuple[Choice, ...] = attrs.field(converter=choices, validator=[v.min_len(1), _one_of_each])
    best: str = ""
    temperatures: tuple[float, ...] = attrs.field(
        default=(), converter=several, validator=v.deep_iterable(v.gt(0))
    )
    block: int = attrs.field(default=BLOCK, validator=[v.instance_of(int), v.gt(0)])

    def whose(self, teacher: object) -> str:
        """Who answers for what it names: the teacher, unless a user changed it."""
        return Measures.whose(self, teacher) if self.name in NAMED else ""

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
        base = {} if plan is None else {f.name: getattr(plan, f.name) for f in attrs.fields(Measures)}
        asked = dict(_of_file(name) if re.search(r"\.(ya?ml|json)$", name) else _of_name(name))
        values = base | {"name": name} | asked
        changed = {key: value for key, value in (changes or {}).items() if value is not None}
        if "metrics" in changed and plan is not None:
            own = {choice.name: choice for choice in plan.metrics}
            named = choices(changed["metrics"])
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
            made = cls(**{"metrics": Choice("?"), **values, **changed})
            told = values if made.name not in NAMED else {**base, **NAMED[made.name], "name": made.name}
            plain = cls(**{"metrics": Choice("?"), **told})
        except (TypeError, ValueError) as error:
            raise ConfigError(f"protocol {name!r}: {message(error)}") from error
        same = digest(made.as_dict()) == digest(plain.as_dict())
        return made if same or made.name.endswith(CHANGED) else attrs.evolve(made, name=made.name + CHANGED)


def digest(facts: Mapping[str, Any]) -> str:
    """A short hash of a protocol's facts; its name does not count."""
    counted = {name: value for name, value in facts.items() if name != "name"}
    return sha256(json.dumps(masked(counted), sort_keys=True, default=str).encode())[:16]


def completes(now: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether protocols differ only in hashes of what ``before`` did not know, such as missing weights.

    Args:
        now: Facts, as plain data.
        before: Others.
    """
    found = changed(before, now)
    return all(name.partition(".")[0] in HASHES and old is None for name, old, _ in found)


def differences(protocols: Iterable[Mapping[str, Any]]) -> list[str]:
    """In which facts protocols differ, such as ``samples (3000 | 500)``; their names do not count.

    Args:
        protocols: The facts of each.
    """
    every = [flat(facts) for facts in protocols]
    names = dict.fromkeys(name for facts in every for name in facts if name != "name")
    found = []
    for name in names:
        values = [str(facts.get(name)) for facts in every]
        if len(set(values)) > 1:
            found.append(f"{name} ({' | '.join(dict.fromkeys(values))})")
    return found


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
