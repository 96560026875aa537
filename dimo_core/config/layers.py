"""Where option values come from: config files, the environment, the command line, Python, presets.

Each source is a ``Layer`` of nested data; a later layer overrides an earlier one, option by option. A
``Context`` collects what is wrong with any of them, so that one message can tell it all.
"""

import difflib
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs
import fsspec
import yaml

from dimo_core.errors import ConfigError, DimoError, PluginError
from dimo_core.hookspecs import KINDS
from dimo_core.options import Path
from dimo_core.registry import Registry
from dimo_core.suggestions import Choice


@attrs.frozen(kw_only=True)
class Layer:
    """One source of option values.

    Attributes:
        origin: What it is, as people read it.
        data: Nested values; the section of a plugin is a mapping that may hold ``name``.
        objects: Finished options objects by section, from Python.
        assumed: Of a plugin's suggestion: the plugins that sections without ``name`` are meant for, by kind.
        spelling: Of text, still to be read by type: how each option was written.
        lenient: Unknown keys are no error.
    """

    origin: str
    data: Mapping[str, Any]
    objects: Mapping[str, object] = attrs.field(factory=dict)
    assumed: Mapping[str, str] = attrs.field(factory=dict)
    spelling: Mapping[Path, str] = attrs.field(factory=dict)
    lenient: bool = False

    def fault(self, text: str) -> DimoError:
        """A mistake in it, which is the plugin's when that suggested it."""
        return (PluginError if self.assumed else ConfigError)(text)

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


@attrs.define(kw_only=True)
class Context:
    """What choosing plugins, and finding and explaining mistakes, needs.

    Attributes:
        registry: Of the installed plugins.
        suggestions: Whether the teacher's presets and evaluation plan count.
        short: Short forms on the command line, for near matches.
        problems: Mistakes, in order.
        notes: What is worth a warning, in order.
        known: Keys of every option of the chosen plugins, for near matches.
    """

    registry: Registry
    suggestions: bool = True
    short: Sequence[str] = ()
    problems: list[DimoError] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)
    known: Sequence[str] = ()

    def report(self, problem: DimoError) -> None:
        """Remember a mistake, once."""
        if str(problem) not in map(str, self.problems):
            self.problems.append(problem)

    def note(self, text: str) -> None:
        """Remember a warning, once."""
        if text not in self.notes:
            self.notes.append(text)

    def check(self) -> None:
        """Raise what was found: a single mistake as it is, several as one error of several lines."""
        if len(self.problems) == 1:
            raise self.problems[0]
        if self.problems:
            plugin = any(isinstance(error, PluginError) for error in self.problems)
            raise (PluginError if plugin else ConfigError)("\n".join(map(str, self.problems)))

    def unknown(self, path: Path, layer: Layer, reason: str = "") -> None:
        """Report a key that no option has; the reason says more than that."""
        where, key = layer.where(path), ".".join(path)
        if layer.lenient:
            self.note(f"{where} is ignored: there is no option {key}")
            return
        candidates = [known for known in self.known if "." in known or "." not in key]
        candidates += self.short if layer.spelling else ()
        text, dashes = f"{where}: {reason or 'unknown option.'}", "--" if layer.spelling else ""
        for match in difflib.get_close_matches(key, candidates, n=1):
            text += f" Did you mean {dashes}{match}?"
        self.report(layer.fault(text))


def from_mapping(
    data: Mapping[Any, Any], origin: str, assumed: Mapping[str, str] = MappingProxyType({})
) -> Layer:
    """A layer from the shape of a config file; a plugin may also be a ``Choice`` or a finished object.

    Args:
        data: Nested values; ``teacher: maskgit`` stands for ``teacher: {name: maskgit}``.
        origin: What it is, as people read it.
        assumed: Of a plugin's suggestion: the plugins that sections without a name are meant for, by kind.

    Raises:
        DimoError: when a section is no mapping; a ``PluginError`` of a suggestion.
    """
    sections: dict[str, Any] = {}
    objects: dict[str, object] = {}
    layer = Layer(origin=origin, data=sections, objects=objects, assumed=assumed)
    for key, value in ((str(key), value) for key, value in data.items()):
        if isinstance(value, Choice):
            value = value.as_dict()
        elif isinstance(value, os.PathLike):
            value = os.fspath(value)
        if isinstance(value, Mapping):
            sections[key] = {str(inner): item for inner, item in value.items()}
        elif key in KINDS and value is None:
            sections[key] = {}
        elif key in KINDS and isinstance(value, str):
            sections[key] = {"name": value}
        elif value is not None and not isinstance(value, bool | int | float | Sequence):
            objects[key] = value
        elif key in KINDS:
            expected = f"expected a name, or a mapping with 'name' and options, got {value!r}"
            raise layer.fault(f"{key} in {origin}: {expected}")
        else:
            sections[key] = value
    return layer


def from_pairs(pairs: Sequence[tuple[Path, str | None, str]], origin: str) -> Layer:
    """A layer of text values by path, as the command line and the environment give them.

    Args:
        pairs: Path, value (None for an option string without one), and the spelling for messages; the last
            one of a path counts.
        origin: What it is, as people read it.

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
    return Layer(origin=origin, data=data, spelling=spelling)


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
    return attrs.evolve(from_pairs(pairs, "the environment"), lenient=True)


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
    data = {} if data is None else data
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
    seen = set()
    for item in node.value if isinstance(node, yaml.CollectionNode) else ():
        key, value = item if isinstance(node, yaml.MappingNode) else (None, item)
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                twice = f"the key {key.value!r} is there twice"
                raise yaml.MarkedYAMLError(problem=twice, problem_mark=key.start_mark)
            seen.add(key.value)
        _refuse_repeats(value)
