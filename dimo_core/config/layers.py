"""Where option values come from: config files, the environment, the command line, Python, presets.

Each source is a ``Layer`` of nested data; a later layer overrides an earlier one, option by option.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import fsspec
import yaml

from dimo_core.choice import Choice
from dimo_core.errors import ConfigError, DimoError
from dimo_core.hookspecs import KINDS
from dimo_core.options import Path


@attrs.frozen(kw_only=True)
class Layer:
    """One source of option values.

    Attributes:
        origin: What it is, as people read it.
        data: Nested values; the section of a plugin is a mapping that may hold ``name``.
        objects: Finished options objects by section, from Python.
        text: Values are text, still to be read by type.
        assumed: Names that sections without ``name`` are meant for, by kind.
        lenient: Unknown keys are no error.
        fault: The error that a mistake in it is.
        spelling: How each option was written, where that is not its key.
    """

    origin: str
    data: Mapping[str, Any]
    objects: Mapping[str, object] = attrs.field(factory=dict)
    text: bool = False
    assumed: Mapping[str, str] = attrs.field(factory=dict)
    lenient: bool = False
    fault: type[DimoError] = ConfigError
    spelling: Mapping[Path, str] = attrs.field(factory=dict)

    def where(self, path: Path) -> str:
        """An option of this layer, as its user wrote it."""
        if path in self.spelling:
            return self.spelling[path]
        return f"{'.'.join(path)} in {self.origin}"

    def name(self, kind: str) -> str | None:
        """The plugin that this layer chooses or assumes for a kind."""
        section = self.data.get(kind)
        if section is None:
            return None
        chosen = section.get("name", self.assumed.get(kind))
        return None if chosen is None else str(chosen)


def from_mapping(data: Mapping[Any, Any], origin: str, **settings: Any) -> Layer:
    """A layer from the shape of a config file; a plugin may also be a ``Choice`` or a finished object.

    Args:
        data: Nested values; ``teacher: maskgit`` stands for ``teacher: {name: maskgit}``.
        origin: What it is, as people read it.
        **settings: Further attributes of the layer.

    Raises:
        ConfigError: when a section is no mapping.
    """
    sections: dict[str, Any] = {}
    objects: dict[str, object] = {}
    for key, value in data.items():
        key = str(key)
        if isinstance(value, Choice):
            value = value.as_dict()
        elif isinstance(value, os.PathLike):
            value = os.fspath(value)
        if value is None or isinstance(value, bool | int | float | Sequence):
            sections[key] = _scalar(key, value, origin)
        elif isinstance(value, Mapping):
            sections[key] = {str(inner): item for inner, item in value.items()}
        else:
            objects[key] = value
    return Layer(origin=origin, data=sections, objects=objects, **settings)


def _scalar(key: str, value: Any, origin: str) -> Any:
    if key not in KINDS:
        return value
    if value is None:
        return {}
    if not isinstance(value, str):
        raise ConfigError(
            f"{key} in {origin}: expected a name, or a mapping with 'name' and options, got {value!r}"
        )
    return {"name": value}


def from_pairs(pairs: Sequence[tuple[Path, str | None, str]], origin: str, **settings: Any) -> Layer:
    """A layer of text values by path, as the command line and the environment give them.

    Args:
        pairs: Path, value (None for an option string without one), and the spelling for messages; the last
            one of a path counts.
        origin: What it is, as people read it.
        **settings: Further attributes of the layer.

    Raises:
        ConfigError: when one path is an option and a group of options at once.
    """
    data: dict[str, Any] = {}
    spelling: dict[Path, str] = {}
    for path, value, written in pairs:
        if len(path) == 1 and path[0] in KINDS:
            path = (*path, "name")
        inner = data
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                raise ConfigError(
                    f"{written}: {key!r} was given a value already, and cannot have options too"
                )
        inner[path[-1]] = value
        spelling[path] = written
    return Layer(origin=origin, data=data, text=True, spelling=spelling, **settings)


def from_environment(environ: Mapping[str, str], keys: Sequence[str]) -> Layer:
    """The layer of ``DIMO_TEACHER=maskgit``, ``DIMO_TEACHER__DEPTH=4``, ``DIMO_SEED=1``.

    Args:
        environ: The environment.
        keys: Top-level keys of the configuration; other variables are left alone.
    """
    pairs = []
    for variable in sorted(environ):
        path = tuple(variable.removeprefix("DIMO_").lower().split("__"))
        if variable.startswith("DIMO_") and path[0] in keys:
            pairs.append((path, environ[variable], variable))
    return from_pairs(pairs, "the environment", lenient=True)


def from_file(url: str) -> Layer:
    """The layer of a YAML file.

    Args:
        url: A path or fsspec URL.

    Raises:
        ConfigError: when it cannot be read, is no YAML, or holds no mapping.
    """
    try:
        with fsspec.open(url, "rb") as file:
            text = file.read()
        _refuse_repeats(yaml.compose(text, yaml.SafeLoader))
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ConfigError(f"config file {url!r} is no valid YAML: {place}{problem}") from error
    except (OSError, ValueError, ImportError, RecursionError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise ConfigError(f"cannot read config file {url!r}: {reason}") from error
    if data is None:
        data = {}
    if not isinstance(data, Mapping):
        raise ConfigError(
            f"config file {url!r} must hold a mapping such as 'teacher: maskgit', got {data!r:.60}"
        )
    return from_mapping(data, url)


def _refuse_repeats(node: Any) -> None:
    """Refuse a key given twice in one mapping, where YAML silently keeps the last.

    Raises:
        yaml.MarkedYAMLError: for the first one.
    """
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} is there twice", problem_mark=key.start_mark
                )
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
            _refuse_repeats(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeats(item)
