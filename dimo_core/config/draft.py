"""A configuration on its way: sections chosen, values gathered, mistakes collected, nothing raised yet.

A section is a chosen plugin, a group of engine options, or the options of the job itself. Every job is made
of sections in the same way; a subclass of ``Draft`` says which there are, and what becomes of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
from loguru import logger

from dimo_core.config.layers import Layer, from_mapping, left_out
from dimo_core.errors import ConfigError, DimoError, joined
from dimo_core.hookspecs import INTERFACES
from dimo_core.limits import MISTAKES
from dimo_core.options import Option, Path, build, convert, options_of, plain
from dimo_core.registry import Registry
from dimo_core.suggestions import UNREGISTERED
from dimo_core.texts import masked

if TYPE_CHECKING:
    from dimo_core.teacher import Teacher

Given = dict[Path, tuple[Any, Layer]]
"""Typed values by path, each with the layer that gave it."""


@attrs.frozen(kw_only=True)
class Section:
    """Options that belong together.

    Attributes:
        key: Its key in the configuration; empty for the options of the job itself.
        cls: Its options class; None when it has a name and no options.
        name: Registered name of the plugin; empty for other sections.
        instance: A finished plugin from Python; nothing is read from layers then.
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


@attrs.define(kw_only=True, eq=False)
class Draft:
    """What layers say about a job: chosen sections, the values given for them, and all mistakes.

    Attributes:
        keys: Top-level keys of the configuration.
        defaults: Plugins by registry name, when nobody chooses others.
        groups: Options classes of no plugin, by key, which is empty for options of the job itself.
        layers: From the lowest to the highest precedence; suggestions of the teacher come before.
        registry: The installed plugins.
        suggestions: Whether the teacher's presets and evaluation plan count.
        short: Short forms on the command line, and what they stand for.
        stored: The job is not to be done, so values may be as files have them, without secrets.
        sections: By key, in the order of the configuration; one that could not be loaded is missing.
        given: Typed values by path.
        problems: Mistakes, in order.
        notes: What is worth a warning, in order.
        preset: The chosen preset, or named sampling.
        presets: What the teacher offers of these, by name.
    """

    keys: ClassVar[Sequence[str]]
    defaults: ClassVar[Mapping[str, str]]
    groups: ClassVar[Mapping[str, type]]
    layers: Sequence[Layer]
    registry: Registry
    suggestions: bool = True
    short: Mapping[str, Path] = attrs.field(factory=dict)
    stored: bool = False
    sections: dict[str, Section] = attrs.field(init=False, factory=dict)
    given: Given = attrs.field(init=False, factory=dict)
    problems: list[DimoError] = attrs.field(init=False, factory=list)
    notes: list[str] = attrs.field(init=False, factory=list)
    preset: str | None = attrs.field(init=False, default=None)
    presets: Mapping[str, Any] = attrs.field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        """Choose the sections and gather their values."""
        own = [Section(key=key, cls=cls) for key, cls in self.groups.items()]
        self.sections = {section.key: section for section in [*self.outline(), *own] if section is not None}
        for section in self.sections.values():
            self.given |= self._gathered(section)
        self.problems += () if self.stored else left_out(self.given)
        for layer in self.layers:
            for key in [key for key in layer.data if key not in self.keys]:
                for path in [path for path in layer.spelling if path[0] == key] or [(key,)]:
                    self._unknown(path, layer)

    @classmethod
    def resolve(cls, arguments: Mapping[str, Any], registry: Registry | None = None) -> Any:
        """The job of Python arguments: the shape of a config file, and plugins may be finished objects."""
        layer = from_mapping(arguments, "the arguments")
        return cls(layers=[layer], registry=registry or Registry.discover()).job()

    def outline(self) -> list[Section | None]:
        """The sections of plugins; None for one that could not be loaded. May add suggestions to layers."""
        raise NotImplementedError

    def job(self) -> Any:
        """The job.

        Raises:
            ConfigError: for wrong options, all of them in one message.
            UnknownNameError: for a plugin or preset that does not exist.
            PluginError: for a plugin that cannot be used.
        """
        raise NotImplementedError

    def check(self) -> None:
        """Raise what was found: a single mistake as it is, several as one error of several lines."""
        if self.problems:
            raise joined(self.problems)

    def choose(self, kind: str) -> Section | None:
        """The plugin of one kind that the highest layer names; None when it cannot be loaded."""
        name = self.defaults.get(kind, "")
        for layer in reversed(self.layers):
            value = layer.data.get(kind)
            if value is not None and not isinstance(value, Mapping):
                return self._from_object(kind, value, layer)
            if (found := layer.name(kind)) is not None:
                name = found
                break
        try:
            if name.startswith(UNREGISTERED):
                raise ConfigError(
                    f"{kind} {name!r} was given as a Python object that no plugin registers, so a config "
                    "file cannot rebuild it: register it (docs/plugins.md), or call dimo_core.distill with "
                    "the object"
                )
            return Section(key=kind, name=name, cls=self.registry.load(kind, name))
        except DimoError as error:
            self.problems.append(error)
            return None

    def _from_object(self, kind: str, value: object, layer: Layer) -> Section | None:
        """A section around a finished object, named as it is registered."""
        cls, (module, _, interface) = type(value), INTERFACES[kind].partition(":")
        if (module, interface) in ((base.__module__, base.__qualname__) for base in cls.__mro__):
            name = self.registry.name_of(kind, cls) or f"{UNREGISTERED}{cls.__module__}.{cls.__qualname__}"
            return Section(key=kind, name=name, cls=cls if attrs.has(cls) else None, instance=value)
        what, advice = repr(value), f"give a name, options or a {interface}"
        if isinstance(value, type):
            what, advice = f"the class {value.__qualname__}", "make an object of it"
        text = f"{kind} in {layer.origin}: {what} is no {interface} object: {advice}"
        self.problems.append(layer.fault(text))
        return None

    def first_look(self, section: Section | None) -> "Teacher | None":
        """The teacher before its suggestions, which knows them; None when its options are wrong.

        What is wrong is reported when all sections are gathered, and therefore not kept here.
        """
        problems, notes = [*self.problems], [*self.notes]
        teacher: Teacher | None = self._made(section, self._gathered(section)) if section else None
        wrong, self.problems, self.notes = self.problems != problems, problems, notes
        return None if wrong else teacher

    def value(self, option: Option) -> Any:
        """What an option is set to, or its default."""
        return self.given[option.path][0] if option.path in self.given else option.default

    def make(self) -> dict[str, Any]:
        """The fields of a job by key, and the resolved ``config`` as plain data, without secrets of URLs.

        Raises:
            DimoError: for all mistakes, the ones found earlier included.
        """
        made = {key: self._made(section, self.given) for key, section in self.sections.items()}
        self.check()
        for note in self.notes:
            logger.warning(note)
        config: dict[str, Any] = {}
        for key, section in self.sections.items():
            options = plain(made[key]) if attrs.has(type(made[key])) else {}
            config |= {key: ({"name": section.name} if section.name else {}) | options} if key else options
        own = attrs.asdict(made.pop(""), recurse=False) if "" in made else {}
        return made | own | {"config": masked(config)}

    def _gathered(self, section: Section) -> Given:
        """Typed values of a section from all layers that mean its plugin, the last layer winning."""
        key, paths, given = section.key, [option.path for option in section.options()], Given()
        for layer in self.layers if section.instance is None else ():
            data: Any = layer.data.get(key) if key else layer.data
            if data is None or (section.name and not isinstance(data, Mapping)):
                continue
            named = layer.name(key) if section.name else None
            if named not in (None, section.name):
                if set(data) > {"name"} and not layer.suggested:
                    text = f"options of {key} {named!r} in {layer.origin} do not apply to {section.name!r}"
                    self.notes.append(text)
                if not layer.suggested or named != getattr(section.cls, "suggested_as", None):
                    continue
                data = {name: value for name, value in data.items() if (key, name) in paths}
            values = dict(self._flatten(data, section.prefix, paths, layer, section))
            if section.cls is None:
                continue
            typed, wrong = convert(section.cls, values, section.prefix, text=bool(layer.spelling))
            given |= {path: (value, layer) for path, value in typed.items()}
            self.problems += [layer.fault(f"{layer.where(path)}: {why}") for path, why in wrong.items()]
        return given

    def _flatten(
        self, data: Any, prefix: Path, paths: Sequence[Path], layer: Layer, section: Section
    ) -> Iterator[tuple[Path, Any]]:
        """Values by path, of which the section has an option; whatever else ``data`` holds is a mistake."""
        if attrs.has(type(data)) and (prefix != section.prefix or isinstance(data, section.cls or ())):
            data = plain(data)
        if not isinstance(data, Mapping | None):
            inner = sorted(path[len(prefix)] for path in paths if path[: len(prefix)] == prefix)
            object_of = f"{section.cls.__name__} or its " if section.cls and attrs.has(type(data)) else ""
            expected = f"expected {object_of}options ({', '.join(inner) or 'none'}), got {data!r}"
            self.problems.append(layer.fault(f"{layer.where(prefix)}: {expected}"))
            return
        for key, value in (data or {}).items():
            path = (*prefix, str(key))
            if section.name and path == (section.key, "name"):
                continue
            if path in paths:
                yield path, value
            elif any(option[: len(path)] == path for option in paths):
                yield from self._flatten(value, path, paths, layer, section)
            elif prefix:  # a key at the top may be that of another section
                self._unknown(path, layer, section)

    def _unknown(self, path: Path, layer: Layer, section: Section | None = None) -> None:
        """Report a key that no option has, or none of a plugin."""
        where, key = layer.where(path), ".".join(path)
        options = [option.key for each in self.sections.values() for option in each.options()]
        hint = layer.meant(key, self.keys, options, self.short)
        if layer.lenient:
            self.notes.append(f"{where} is ignored: there is no option {key}.{hint}")
            return
        if len(self.problems) >= MISTAKES:  # this one is only counted
            return self.problems.append(layer.fault(f"{where}: unknown option."))
        reason = self._takes(section, path[1:]) if section and section.name else "unknown option."
        self.problems.append(layer.fault(f"{where}: {reason}{hint}"))

    def _takes(self, section: Section, path: Path) -> str:
        """That a plugin has no such option, which ones it has, and which plugins have this one."""
        takes = ", ".join(".".join(option.path[1:]) for option in section.options())
        text = f"{section.title} has no option {'.'.join(path)!r}. It takes: {takes or 'none'}."
        takers = []
        for name in self.registry.names(section.key):
            try:
                options = options_of(self.registry.load(section.key, name))
            except DimoError:
                continue
            takers += [name] if any(option.path == path for option in options) else []
        return f"{text} A {section.key} that takes it: {', '.join(takers)}." if takers else text

    def _made(self, section: Section, given: Given) -> Any:
        """The options object; None after a mistake."""
        if section.cls is None or section.instance is not None:
            return section.instance
        missing = [o for o in section.options() if o.default is attrs.NOTHING and o.path not in given]
        needs = [f"{section.title} needs --{o.key}: {o.doc or 'it has no default'}" for o in missing]
        self.problems += map(ConfigError, needs)
        if missing:
            return None
        values: dict[str, Any] = {}
        for path in (option.path for option in section.options() if option.path in given):
            inner = values
            for key in path[len(section.prefix) : -1]:
                inner = inner.setdefault(key, {})
            inner[path[-1]] = given[path][0]
        try:
            return build(section.cls, values)
        except ConfigError as error:
            keys, _, reason = str(error).partition(":")
            path = (*section.prefix, *keys.split(".")) if keys else section.prefix
            _, layer = given.get(path) or (None, Layer(origin="", data={}, spelling={path: ".".join(path)}))
            self.problems.append(layer.fault(f"{layer.where(path)}:{reason}"))
        except DimoError as error:
            self.problems.append(error)
        return None
