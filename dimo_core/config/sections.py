"""The sections of a configuration: one for each chosen plugin, and one for each group of engine options."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from dimo_core.config.layers import Layer
from dimo_core.errors import ConfigError, DimoError, PluginError
from dimo_core.options import Option, Path, build, coerce, options_of, plain
from dimo_core.registry import Registry

Given = dict[Path, tuple[Any, Layer]]
"""Typed values by path, each with the layer that gave it."""


@attrs.define
class Problems:
    """Collects what is wrong with a configuration, so that one message can tell it all.

    Attributes:
        found: The mistakes, in order.
    """

    found: list[DimoError] = attrs.field(factory=list)

    def add(self, problem: DimoError) -> None:
        """Remember a problem, once."""
        if str(problem) not in map(str, self.found):
            self.found.append(problem)

    def check(self) -> None:
        """Raise what was found: a single error as it is, several as one error of several lines."""
        if len(self.found) == 1:
            raise self.found[0]
        if self.found:
            plugin = any(isinstance(error, PluginError) for error in self.found)
            raise (PluginError if plugin else ConfigError)("\n".join(map(str, self.found)))


@attrs.frozen(kw_only=True)
class Section:
    """A plugin, or a group of engine options, with the class of its options.

    Attributes:
        key: Its key in the configuration.
        cls: Its options class; None when it has a name and no options.
        name: Registered name of the plugin; empty for a group.
        instance: A finished options object from Python; nothing is read from layers then.
    """

    key: str
    cls: type | None
    name: str = ""
    instance: object = None

    @property
    def title(self) -> str:
        """``teacher 'maskgit'``, or the key."""
        return f"{self.key} {self.name!r}" if self.name else self.key

    def options(self) -> list[Option]:
        """Its options, by full path."""
        return options_of(self.cls, (self.key,)) if self.cls else []

    def layers(self, layers: Iterable[Layer], context: "Context") -> Iterator[Layer]:
        """The layers that speak of this section and mean this plugin."""
        for layer in layers:
            if self.instance is None and self.key in layer.data:
                named = layer.name(self.key) if self.name else None
                if named in (None, self.name):
                    yield layer
                elif set(layer.data[self.key]) > {"name"} and not layer.assumed:
                    context.note(
                        f"options of {self.key} {named!r} in {layer.origin} do not apply to {self.name!r}"
                    )

    def gather(self, layers: Sequence[Layer], context: "Context") -> Given:
        """Typed values of this section from all layers, the last layer winning."""
        options = {option.path: option for option in self.options()}
        given: Given = {}
        for layer in self.layers(layers, context):
            for path, value in self._flatten(layer.data[self.key], (self.key,), options, layer, context):
                try:
                    given[path] = (coerce(options[path].type, value, text=layer.text), layer)
                except ConfigError as error:
                    context.problems.add(layer.fault(f"{layer.where(path)}: {error}"))
        return given

    def _flatten(
        self, data: Any, prefix: Path, options: Mapping[Path, Option], layer: Layer, context: "Context"
    ) -> Iterator[tuple[Path, Any]]:
        data = plain(data) if attrs.has(type(data)) else {} if data is None else data
        if not isinstance(data, Mapping):
            inner = sorted(path[len(prefix)] for path in options if path[: len(prefix)] == prefix)
            expected = f"expected options ({', '.join(inner) or 'none'}), got {data!r}"
            context.problems.add(layer.fault(f"{layer.where(prefix)}: {expected}"))
            return
        for key, value in data.items():
            path = (*prefix, str(key))
            if self.name and path == (self.key, "name"):
                continue
            if path in options:
                yield path, value
            elif any(option[: len(path)] == path for option in options):
                yield from self._flatten(value, path, options, layer, context)
            else:
                context.unknown(path, layer, self)

    def make(self, given: Given, problems: Problems) -> Any:
        """The options object; None after a problem."""
        if self.cls is None or self.instance is not None:
            return self.instance
        missing = [o for o in self.options() if o.default is attrs.NOTHING and o.path not in given]
        for option in missing:
            problems.add(
                ConfigError(f"{self.title} needs --{option.key}: {option.doc or 'it has no default'}")
            )
        if missing:
            return None
        values: dict[str, Any] = {}
        for path, (value, _) in given.items():
            if path[0] != self.key:
                continue
            inner = values
            for key in path[1:-1]:
                inner = inner.setdefault(key, {})
            inner[path[-1]] = value
        try:
            return build(self.cls, values)
        except ConfigError as error:
            problems.add(self._blame(str(error), given))
        except DimoError as error:
            problems.add(error)
        return None

    def _blame(self, refusal: str, given: Given) -> DimoError:
        """A validator's refusal, naming the option as its user wrote it."""
        keys, _, reason = refusal.partition(":")
        path = (self.key, *keys.split(".")) if keys else (self.key,)
        if path not in given:
            return ConfigError(f"{'.'.join(path)}:{reason}")
        layer = given[path][1]
        return layer.fault(f"{layer.where(path)}:{reason}")


@attrs.define(kw_only=True)
class Context:
    """What finding and explaining mistakes needs.

    Attributes:
        registry: Of the installed plugins.
        problems: Where mistakes are collected.
        notes: What is worth a warning, in order.
        known: Keys of every option of the chosen plugins, for near matches.
        short: Short forms on the command line, for near matches.
    """

    registry: Registry
    problems: Problems = attrs.field(factory=Problems)
    notes: list[str] = attrs.field(factory=list)
    known: Sequence[str] = ()
    short: Sequence[str] = ()

    def note(self, text: str) -> None:
        """Remember a warning, once."""
        if text not in self.notes:
            self.notes.append(text)

    def unknown(self, path: Path, layer: Layer, section: Section | None = None) -> None:
        """Report a key that no option has."""
        where, key = layer.where(path), ".".join(path)
        if layer.lenient:
            self.note(f"{where} is ignored: there is no option {key}")
            return
        if section is None or not section.name:
            text = f"{where}: unknown option."
        else:
            takes = [".".join(o.path[1:]) for o in section.options()]
            text = f"{where}: {section.title} has no option {'.'.join(path[1:])!r}. It takes: "
            text += f"{', '.join(takes) or 'none'}."
            if others := self._takers(section.key, path[1:]):
                text += f" A {section.key} that takes it: {', '.join(others)}."
        self.problems.add(layer.fault(f"{text} {self._nearest(key, layer)}".rstrip()))

    def _nearest(self, key: str, layer: Layer) -> str:
        candidates = [known for known in self.known if "." in known or "." not in key]
        candidates += self.short if layer.spelling else ()
        matches = difflib.get_close_matches(key, candidates, n=1)
        if not matches:
            return ""
        return f"Did you mean {'--' if layer.spelling else ''}{matches[0]}?"

    def _takers(self, kind: str, path: Path) -> list[str]:
        names = []
        for name in self.registry.names(kind):
            try:
                if any(option.path == path for option in options_of(self.registry.load(kind, name))):
                    names.append(name)
            except DimoError:
                continue
        return names
