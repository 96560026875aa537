"""A configuration on its way: sections chosen, values gathered, mistakes collected, nothing raised yet."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from dimo_core.config.layers import Layer
from dimo_core.config.sections import Context, Given, Section
from dimo_core.errors import ConfigError, DimoError
from dimo_core.files.folder import Folder
from dimo_core.options import Option, Path, build, coerce, field_docs, options_of, plain
from dimo_core.registry import INTERFACES

UNREGISTERED = "python:"
"""Begins the recorded name of an object that no plugin registers."""


@attrs.frozen(kw_only=True)
class Draft:
    """Chosen sections and the values given for them.

    Attributes:
        sections: By key, in the order of the configuration; one that could not be loaded is missing.
        scalars: Options outside sections: seed, out, device.
        given: Typed values by path.
        context: Registry, and the mistakes found so far.
        preset: The chosen preset.
        presets: Presets to choose from.
    """

    sections: Mapping[str, Section]
    scalars: Sequence[Option]
    given: Given
    context: Context
    preset: str | None = None
    presets: Sequence[str] = ()

    def value(self, option: Option) -> Any:
        """What an option is set to, or its default."""
        return self.given[option.path][0] if option.path in self.given else option.default

    def make(self) -> dict[str, Any]:
        """Options objects and scalars by key.

        Raises:
            DimoError: for all mistakes, the ones found earlier included.
        """
        made = {
            key: section.make(self.given, self.context.problems) for key, section in self.sections.items()
        }
        self.context.problems.check()
        return made | {option.path[0]: self.value(option) for option in self.scalars}

    def config(self, made: Mapping[str, Any]) -> dict[str, Any]:
        """The resolved configuration as plain data.

        Raises:
            PluginError: for an option whose value no config file can hold.
        """
        data: dict[str, Any] = {}
        for key, section in self.sections.items():
            options = plain(made[key]) if attrs.has(type(made[key])) else {}
            data[key] = ({"name": section.name} if section.name else {}) | options
        return data | {option.path[0]: plain(made[option.path[0]]) for option in self.scalars}


def complete(
    sections: Sequence[Section | None],
    scalars: Sequence[Option],
    layers: Sequence[Layer],
    context: Context,
    keys: Sequence[str],
) -> Draft:
    """Gather the values of all sections and scalars.

    Args:
        sections: The chosen sections; None for one that could not be loaded.
        scalars: Options outside sections.
        layers: From the lowest to the highest precedence.
        context: Registry and mistakes.
        keys: All top-level keys, those of missing sections included.
    """
    chosen = [section for section in sections if section is not None]
    context.known = [*keys, *(option.key for section in chosen for option in section.options())]
    given: Given = {}
    for section in chosen:
        given |= section.gather(layers, context)
    for layer in layers:
        for option in scalars:
            _gather_scalar(option, layer, given, context)
        for key in (*layer.data, *layer.objects):
            if key not in keys:
                for path in _leaves((key,), layer):
                    context.unknown(path, layer)
    return Draft(sections={s.key: s for s in chosen}, scalars=scalars, given=given, context=context)


def _gather_scalar(option: Option, layer: Layer, given: Given, context: Context) -> None:
    key = option.key
    if key not in layer.data and key not in layer.objects:
        return
    value = layer.data[key] if key in layer.data else str(layer.objects[key])
    try:
        given[option.path] = (coerce(option.type, value, text=layer.text), layer)
    except ConfigError as error:
        context.problems.add(layer.fault(f"{layer.where(option.path)}: {error}"))


def _leaves(path: Path, layer: Layer) -> Iterator[Path]:
    """The options below an unknown key as they were typed; for files the key itself."""
    inner: Any = layer.data if path[0] in layer.data else layer.objects
    for key in path:
        inner = inner[key]
    if layer.text and isinstance(inner, Mapping):
        for key in inner:
            yield from _leaves((*path, key), layer)
    else:
        yield path


def choose(kind: str, default: str, layers: Sequence[Layer], context: Context) -> Section | None:
    """The plugin of one kind that the highest layer names; None when it cannot be loaded."""
    for layer in reversed(layers):
        if kind in layer.objects:
            return _from_object(kind, layer.objects[kind], layer, context)
        if (name := layer.name(kind)) is not None:
            break
    else:
        name = default
    try:
        if name.startswith(UNREGISTERED):
            raise ConfigError(
                f"{kind} {name!r} was given as a Python object that no plugin registers, so a config file "
                "cannot rebuild it: register it (docs/plugins.md), or call dimo_core.distill with the object"
            )
        return Section(key=kind, name=name, cls=context.registry.load(kind, name))
    except DimoError as error:
        context.problems.add(error)
        return None


def _from_object(kind: str, value: object, layer: Layer, context: Context) -> Section | None:
    """A section around a finished object, named as it is registered."""
    module, _, interface = INTERFACES[kind].partition(":")
    bases = [
        base for base in type(value).__mro__ if (base.__module__, base.__qualname__) == (module, interface)
    ]
    if not bases:
        what = f"the class {value.__qualname__}" if isinstance(value, type) else repr(value)
        advice = (
            "make an object of it" if isinstance(value, type) else f"give a name, options or a {interface}"
        )
        context.problems.add(
            layer.fault(f"{kind} in {layer.origin}: {what} is no {interface} object: {advice}")
        )
        return None
    cls = type(value)
    name = context.registry.name_of(kind, cls) or f"{UNREGISTERED}{cls.__module__}.{cls.__qualname__}"
    return Section(key=kind, name=name, cls=cls if attrs.has(cls) else None, instance=value)


def group(key: str, cls: type, layers: Sequence[Layer], context: Context) -> Section | None:
    """The section of a group of engine options, or around a finished object from the highest layer."""
    for layer in reversed(layers):
        if key in layer.objects:
            if isinstance(layer.objects[key], cls):
                return Section(key=key, cls=cls, instance=layer.objects[key])
            got = f"expected {cls.__name__} or its options, got {layer.objects[key]!r}"
            context.problems.add(layer.fault(f"{key} in {layer.origin}: {got}"))
            return None
        if key in layer.data:
            break
    return Section(key=key, cls=cls)


def scalar_options(cls: type, keys: Sequence[str]) -> list[Option]:
    """Options that are plain fields of a job; ``out`` may be left open."""
    docs = field_docs(cls)
    found = {option.key: option for option in options_of(cls) if option.key in keys}
    found["out"] = Option(
        path=("out",),
        type=str | None,
        default=None,
        doc=f"{docs['out']} The next free one below runs/ when null.",
    )
    return [found[key] for key in keys]


def finish(cls: type, values: Mapping[str, Any], draft: Draft) -> Any:
    """The job object.

    Raises:
        ConfigError: when a validator of the job refuses a value.
    """
    try:
        return build(cls, values)
    except ConfigError as error:
        key, _, reason = str(error).partition(":")
        where = draft.given[(key,)][1].where((key,)) if (key,) in draft.given else key
        raise ConfigError(f"{where}:{reason}") from error


def next_folder(*parts: str) -> str:
    """The next free folder below ``runs``: ``runs/maskgit-jeffrey-1``, then ``-2``."""
    stem = "-".join(re.sub(r"[^\w.]+", "_", part.rpartition(":")[2]) for part in parts)
    taken = [
        int(name[len(stem) + 1 :])
        for name in Folder("runs").names()
        if re.fullmatch(re.escape(stem) + r"-\d+", name)
    ]
    return f"runs/{stem}-{max(taken, default=0) + 1}"
