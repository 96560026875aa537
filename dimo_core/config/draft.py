"""A configuration on its way: sections chosen, values gathered, mistakes collected, nothing raised yet.

A section is a chosen plugin, a group of engine options, or the options of the job itself. Every job is made
of sections in the same way: ``complete`` gathers their values, ``Draft.make`` builds their objects.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from loguru import logger

from dimo_core.config.layers import Context, Layer
from dimo_core.errors import ConfigError, DimoError
from dimo_core.files.folder import Folder
from dimo_core.hookspecs import INTERFACES
from dimo_core.options import Option, Path, build, convert, options_of, plain

if TYPE_CHECKING:
    from dimo_core.teacher import Teacher

UNREGISTERED = "python:"
"""Begins the recorded name of an object that no plugin registers."""

Given = dict[Path, tuple[Any, Layer]]
"""Typed values by path, each with the layer that gave it."""


@attrs.frozen(kw_only=True)
class Section:
    """Options that belong together.

    Attributes:
        key: Its key in the configuration; empty for the options of the job itself.
        cls: Its options class; None when it has a name and no options.
        name: Registered name of the plugin; empty for other sections.
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

    @property
    def prefix(self) -> Path:
        """What the paths of its options begin with."""
        return (self.key,) if self.key else ()

    def options(self) -> list[Option]:
        """Its options, by full path."""
        return options_of(self.cls, self.prefix) if self.cls else []

    def gather(self, layers: Sequence[Layer], context: Context) -> Given:
        """Typed values of this section from all layers, the last layer winning."""
        paths, given = [option.path for option in self.options()], Given()
        for layer, data in self._speaking(layers, context):
            values = dict(self._flatten(data, self.prefix, paths, layer, context))
            if self.cls is None:
                continue
            typed, wrong = convert(self.cls, values, self.prefix, text=bool(layer.spelling))
            given |= {path: (value, layer) for path, value in typed.items()}
            for path, reason in wrong.items():
                context.report(layer.fault(f"{layer.where(path)}: {reason}"))
        return given

    def _speaking(self, layers: Sequence[Layer], context: Context) -> Iterator[tuple[Layer, Any]]:
        """The layers that speak of this section and mean this plugin, with what they say."""
        own = {option.path[0] for option in self.options()}
        for layer in layers if self.instance is None else ():
            named = layer.name(self.key) if self.name else None
            if not self.key:
                given = {key: str(value) for key, value in layer.objects.items()} | dict(layer.data)
                yield layer, {key: value for key, value in given.items() if key in own}
            elif self.key in layer.data and named in (None, self.name):
                yield layer, layer.data[self.key]
            elif self.key in layer.data and set(layer.data[self.key]) > {"name"} and not layer.assumed:
                text = f"options of {self.key} {named!r} in {layer.origin} do not apply to {self.name!r}"
                context.note(text)

    def _flatten(
        self, data: Any, prefix: Path, paths: Sequence[Path], layer: Layer, context: Context
    ) -> Iterator[tuple[Path, Any]]:
        data = plain(data) if attrs.has(type(data)) else {} if data is None else data
        if not isinstance(data, Mapping):
            inner = sorted(path[len(prefix)] for path in paths if path[: len(prefix)] == prefix)
            expected = f"expected options ({', '.join(inner) or 'none'}), got {data!r}"
            context.report(layer.fault(f"{layer.where(prefix)}: {expected}"))
            return
        for key, value in data.items():
            path = (*prefix, str(key))
            if self.name and path == (self.key, "name"):
                continue
            if path in paths:
                yield path, value
            elif any(option[: len(path)] == path for option in paths):
                yield from self._flatten(value, path, paths, layer, context)
            else:
                context.unknown(path, layer, self._takes(path[1:], context) if self.name else "")

    def _takes(self, path: Path, context: Context) -> str:
        """That this plugin has no such option, which ones it has, and which plugins have this one."""
        takes = ", ".join(".".join(option.path[1:]) for option in self.options())
        text = f"{self.title} has no option {'.'.join(path)!r}. It takes: {takes or 'none'}."
        takers = []
        for name in context.registry.names(self.key):
            try:
                options = options_of(context.registry.load(self.key, name))
            except DimoError:
                continue
            takers += [name] if any(option.path == path for option in options) else []
        return f"{text} A {self.key} that takes it: {', '.join(takers)}." if takers else text

    def make(self, given: Given, context: Context) -> Any:
        """The options object; None after a mistake."""
        if self.cls is None or self.instance is not None:
            return self.instance
        missing = [o for o in self.options() if o.default is attrs.NOTHING and o.path not in given]
        for option in missing:
            needs = f"{self.title} needs --{option.key}: {option.doc or 'it has no default'}"
            context.report(ConfigError(needs))
        if missing:
            return None
        values: dict[str, Any] = {}
        for path in (option.path for option in self.options() if option.path in given):
            inner = values
            for key in path[len(self.prefix) : -1]:
                inner = inner.setdefault(key, {})
            inner[path[-1]] = given[path][0]
        try:
            return build(self.cls, values)
        except ConfigError as error:
            context.report(self._blame(str(error), given))
        except DimoError as error:
            context.report(error)
        return None

    def _blame(self, refusal: str, given: Given) -> DimoError:
        """A validator's refusal, naming the option as its user wrote it."""
        keys, _, reason = refusal.partition(":")
        path = (*self.prefix, *keys.split(".")) if keys else self.prefix
        if path not in given:
            return ConfigError(f"{'.'.join(path)}:{reason}")
        layer = given[path][1]
        return layer.fault(f"{layer.where(path)}:{reason}")


@attrs.frozen(kw_only=True)
class Draft:
    """Chosen sections and the values given for them.

    Attributes:
        sections: By key, in the order of the configuration; one that could not be loaded is missing.
        given: Typed values by path.
        context: Registry, and the mistakes found so far.
        preset: The chosen preset, or named sampling.
        presets: What the teacher offers of these, by name.
    """

    sections: Mapping[str, Section]
    given: Given
    context: Context
    preset: str | None = None
    presets: Mapping[str, Any] = attrs.field(factory=dict)

    def value(self, option: Option) -> Any:
        """What an option is set to, or its default."""
        return self.given[option.path][0] if option.path in self.given else option.default

    def make(self) -> dict[str, Any]:
        """The fields of a job: objects and values by key, and the resolved ``config`` as plain data.

        Raises:
            DimoError: for all mistakes, the ones found earlier included.
        """
        made = {key: section.make(self.given, self.context) for key, section in self.sections.items()}
        self.context.check()
        for note in self.context.notes:
            logger.warning(note)
        config: dict[str, Any] = {}
        for key, section in self.sections.items():
            options = plain(made[key]) if attrs.has(type(made[key])) else {}
            config |= {key: ({"name": section.name} if section.name else {}) | options} if key else options
        own = attrs.asdict(made.pop(""), recurse=False) if "" in made else {}
        return made | own | {"config": config}


def complete(
    sections: Sequence[Section | None], layers: Sequence[Layer], context: Context, keys: Sequence[str]
) -> Draft:
    """Gather the values of all sections.

    Args:
        sections: The chosen sections; None for one that could not be loaded.
        layers: From the lowest to the highest precedence.
        context: For mistakes.
        keys: All top-level keys, those of missing sections included.
    """
    chosen = [section for section in sections if section is not None]
    context.known = [*keys, *(option.key for section in chosen for option in section.options())]
    given = Given()
    for section in chosen:
        given |= section.gather(layers, context)
    for layer in layers:
        for key in (*layer.data, *layer.objects):
            if key not in keys:
                for path in [path for path in layer.spelling if path[0] == key] or [(key,)]:
                    context.unknown(path, layer)
    return Draft(sections={s.key: s for s in chosen}, given=given, context=context)


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
        context.report(error)
        return None


def _from_object(kind: str, value: object, layer: Layer, context: Context) -> Section | None:
    """A section around a finished object, named as it is registered."""
    cls = type(value)
    module, _, interface = INTERFACES[kind].partition(":")
    if (module, interface) in ((base.__module__, base.__qualname__) for base in cls.__mro__):
        name = context.registry.name_of(kind, cls) or f"{UNREGISTERED}{cls.__module__}.{cls.__qualname__}"
        return Section(key=kind, name=name, cls=cls if attrs.has(cls) else None, instance=value)
    what, advice = repr(value), f"give a name, options or a {interface}"
    if isinstance(value, type):
        what, advice = f"the class {value.__qualname__}", "make an object of it"
    context.report(layer.fault(f"{kind} in {layer.origin}: {what} is no {interface} object: {advice}"))
    return None


def group(key: str, cls: type, layers: Sequence[Layer], context: Context) -> Section | None:
    """The section of a group of engine options, or around a finished object from the highest layer."""
    layer = next((x for x in reversed(layers) if key in x.objects or key in x.data), None)
    if layer is None or key not in layer.objects:
        return Section(key=key, cls=cls)
    if isinstance(value := layer.objects[key], cls):
        return Section(key=key, cls=cls, instance=value)
    got = f"expected {cls.__name__} or its options, got {value!r}"
    context.report(layer.fault(f"{key} in {layer.origin}: {got}"))
    return None


def first_look(section: Section | None, layers: Sequence[Layer], context: Context) -> "Teacher | None":
    """The teacher before its suggestions, which knows them; None when its options are wrong.

    What is wrong is reported when all sections are gathered, and therefore not kept here.
    """
    aside = Context(registry=context.registry)
    teacher = None if section is None else section.make(section.gather(layers, aside), aside)
    return None if aside.problems else teacher


def next_folder(*parts: str) -> str:
    """The next free folder below ``runs``: ``runs/maskgit-jeffrey-1``, then ``-2``."""
    stem = "-".join(re.sub(r"[^\w.]+", "_", part.rpartition(":")[2]) for part in parts)
    found = (re.fullmatch(re.escape(stem) + r"-(\d+)", name) for name in Folder("runs").names())
    return f"runs/{stem}-{max((int(match[1]) for match in found if match), default=0) + 1}"
