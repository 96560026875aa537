"""Where option values come from: config files, the environment, the command line, Python, presets.

Each source is a ``Layer`` of nested data; a later layer overrides an earlier one, option by option.
"""

import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs

from dimo_core import limits
from dimo_core.errors import ConfigError, DimoError, PluginError, nearest
from dimo_core.files.urls import cause_of, content, is_missing
from dimo_core.files.yaml_text import YamlFault, parsed
from dimo_core.hookspecs import KINDS
from dimo_core.options import Path
from dimo_core.suggestions import Choice
from dimo_core.texts import is_masked

OWN = {"CACHE", "DISABLE_PLUGINS", "LOG_LEVEL", "REDIRECTS", "STRICT_PLUGINS", "TRACEBACK"}
"""Variables ``DIMO_...`` that are no options."""

OF_TESTS = {"GPU_TESTS_ON", "SITE"}
"""The same, of the project's tests."""

ELSEWHERE = {*KINDS, *["preset", "sampling", "train", "eval", "model", "tokens", "seed", "out", "device"]}
"""First words of options that some command has: variables for one command are no mistake in another."""


@attrs.frozen(kw_only=True)
class Layer:
    """One source of option values.

    Attributes:
        origin: What it is, as people read it.
        data: Nested values; the section of a plugin is a mapping that may hold ``name``, or from Python a
            finished plugin.
        suggested: A plugin suggests it.
        spelling: Of text, still to be read by type: how each option was written.
        lenient: Unknown keys are no error.
    """

    origin: str
    data: Mapping[str, Any]
    suggested: bool = False
    spelling: Mapping[Path, str] = attrs.field(factory=dict)
    lenient: bool = False

    def fault(self, text: str) -> DimoError:
        """A mistake in it, which is the plugin's when that suggested it."""
        return (PluginError if self.suggested else ConfigError)(text)

    def where(self, path: Path) -> str:
        """An option of this layer, as its user wrote it."""
        if path in self.spelling:
            return self.spelling[path]
        return f"{'.'.join(path)} in {self.origin}"

    def name(self, kind: str) -> str | None:
        """The plugin that this layer chooses for a kind."""
        section = self.data.get(kind)
        name = section.get("name") if isinstance(section, Mapping) else None
        return None if name is None else str(name)

    def meant(self, key: str, keys: Sequence[str], options: Sequence[str], short: Mapping[str, Path]) -> str:
        """ " Did you mean x?", with the option that is near to an unknown one, as it is written here.

        Args:
            key: The unknown one, with dots.
            keys: Top-level keys of the configuration.
            options: The known ones, with dots.
            short: Short forms on the command line, and what they stand for.
        """
        typed = bool(self.spelling) and not self.lenient
        known = {name: name for name in (*keys, *options) if "." in name or "." not in key}
        forms = {n: n if typed else ".".join(path) for n, path in short.items() if path[0] in keys}
        # Where no group is named, the names of all groups; the first group's of several.
        inner = {} if "." in key else {name.rpartition(".")[2]: name for name in reversed(options)}
        found = inner | forms | known
        if self.lenient:
            found = {name: full.replace(".", "__").upper() for name, full in found.items()}
        return nearest(key, found, "DIMO_{}" if self.lenient else "--{}" if typed else "{}", found)


def last(layers: Sequence[Layer], key: str) -> Any:
    """What the highest layer says of a key, before it is read by type; None when none says anything."""
    return next((layer.data[key] for layer in reversed(layers) if layer.data.get(key)), None)


def left_out(given: Mapping[Path, tuple[Any, Layer]]) -> list[DimoError]:
    """A mistake for each value of which a file has no more than the rest: secrets are not stored."""
    lost = "its user name, password or signature was left out when it was stored"
    return [
        layer.fault(f"{layer.where(path)} is {value!r}: {lost}. Give it again, whole: --{'.'.join(path)}")
        for path, (value, layer) in given.items()
        if is_masked(value)
    ]


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
    layer = Layer(origin=origin, data=sections, suggested=bool(assumed))
    for key, value in _nested(data, layer).items():
        if isinstance(value, Choice):
            value = value.plugin or value.as_dict()
        elif isinstance(value, os.PathLike):
            value = os.fspath(value)
        if isinstance(value, Mapping):
            name = {"name": assumed[key]} if key in assumed else {}
            value = name | {str(inner): item for inner, item in value.items()}
        elif key in KINDS and value is None:
            value = {}
        elif key in KINDS and isinstance(value, str):
            value = {"name": value}
        elif key in KINDS and isinstance(value, bool | int | float | Sequence):
            expected = f"expected a name, or a mapping with 'name' and options, got {value!r}"
            raise layer.fault(f"{key} in {origin}: {expected}")
        sections[key] = value
    return layer


def _nested(data: Mapping[Any, Any], layer: Layer) -> dict[str, Any]:
    """``train.steps: 5`` as ``train: {steps: 5}``."""
    nested: dict[str, Any] = {str(key): value for key, value in data.items() if "." not in str(key)}
    for key, value in ((str(key), value) for key, value in data.items() if "." in str(key)):
        *above, last = key.split(".")
        inner = nested
        for name in above:
            outer = inner.get(name, {})
            outer = {"name": outer} if isinstance(outer, str) and inner is nested else outer
            inner[name] = inner = dict(outer) if isinstance(outer, Mapping) else {last: None}
        if last in inner:
            raise layer.fault(f"{key} in {layer.origin} is given a value twice")
        inner[last] = value
    return nested


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
        keys: Top-level keys of the configuration. Variables for other commands are left alone; what no
            command has is a key with dots, which no configuration has.
    """
    pairs = []
    for variable in sorted(name for name in environ if name.startswith("DIMO_")):
        path = tuple(variable.removeprefix("DIMO_").lower().split("__"))
        if path[0] in keys:
            pairs.append((path, environ[variable], variable))
        elif path[0] not in ELSEWHERE and variable.removeprefix("DIMO_") not in OWN | OF_TESTS:
            pairs.append(((".".join(path),), environ[variable], variable))
    return attrs.evolve(from_pairs(pairs, "the environment"), lenient=True)


def from_file(url: str) -> Layer:
    """The layer of a YAML file.

    Args:
        url: A path or fsspec URL.

    Raises:
        ConfigError: when it cannot be read, is no YAML, or holds no mapping.
    """
    try:
        data = parsed(content(url, limits.YAML))
    except YamlFault as error:
        raise ConfigError(f"config file {url!r} is no valid YAML: {error}") from error
    except Exception as error:  # each file system raises its own
        reason = "there is no such file" if is_missing(error) else str(cause_of(error)).rstrip(". ")
        advice = "Give the path of a YAML file, or a URL that can be read from here."
        raise ConfigError(f"cannot read config file {url!r}: {reason}. {advice}") from error
    data = {} if data is None else data
    if not isinstance(data, Mapping):
        raise ConfigError(
            f"config file {url!r} must hold a mapping such as 'teacher: maskgit', got {data!r:.60}"
        )
    return from_mapping(data, url)
