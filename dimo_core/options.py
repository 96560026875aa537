"""Options classes as lists of options, plain data as options objects, and back.

An options class is a frozen, keyword-only attrs class. Its annotations, defaults, validators and the
``Attributes:`` section of its docstring are all that the command line, config files and ``--help`` are made
from. A field whose type is itself an attrs class is a group of options: ``--objective.generator.lr``.
"""

import enum
import json
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence, Set
from functools import cache
from typing import Any, Literal

import attrs
import docstring_parser
from jsonargparse import ArgumentError, ArgumentParser

from dimo_core import limits
from dimo_core.errors import ConfigError, PluginError, message

Path = tuple[str, ...]
"""Keys from the top of the configuration: ``("objective", "generator", "lr")``."""


@attrs.frozen(kw_only=True)
class Option:
    """One value that can be set.

    Attributes:
        path: Keys that lead to it.
        type: Its annotation.
        default: What it is when nobody sets it; ``attrs.NOTHING`` when it must be set.
        doc: Its entry in the docstring.
    """

    path: Path
    type: Any
    default: Any
    doc: str

    @property
    def key(self) -> str:
        """The path with dots: the option string without dashes."""
        return ".".join(self.path)


def options_of(cls: type, prefix: Path = (), defaults: object = None) -> list[Option]:
    """All options of an attrs class, nested ones included.

    Args:
        cls: The options class.
        prefix: Keys before its own.
        defaults: An instance whose values are the defaults; the class's own when None.

    Raises:
        PluginError: for a class whose annotations or defaults cannot be read.
    """
    docs = field_docs(cls)
    found = []
    for name, hint, default in _fields(cls, defaults):
        if attrs.has(hint):
            inner = None if default is attrs.NOTHING else default
            found += options_of(hint, (*prefix, name), inner)
        else:
            found.append(Option(path=(*prefix, name), type=hint, default=default, doc=docs.get(name, "")))
    return found


@cache
def field_docs(cls: type) -> Mapping[str, str]:
    """The entries of the ``Attributes:`` sections of a class and its bases, by field name."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if "__doc__" in vars(base) and base.__doc__:
            for entry in docstring_parser.parse(base.__doc__, docstring_parser.DocstringStyle.GOOGLE).params:
                docs[entry.arg_name] = _text(entry.description or "")
    return docs


def first_line(cls: type) -> str:
    """The first line of a class's docstring."""
    return _text(next(iter((cls.__doc__ or "").strip().splitlines()), ""))


def _text(doc: str) -> str:
    return " ".join(doc.replace("``", "`").split())  # as people read it


def convert(
    cls: type, values: Mapping[Path, Any], prefix: Path = (), *, text: bool = False
) -> tuple[dict[Path, Any], dict[Path, str]]:
    """Values of the annotated types, and every mistake.

    Args:
        cls: The options class.
        values: By path, options of the class only. Text is read as YAML where the type is no string.
        prefix: Keys before its own.
        text: Whether the command line or the environment gave them; None is then an option string without a
            value, which only booleans may have.

    Returns:
        The typed values, and for each value of another type what is wrong with it.
    """
    hints = {option.path: option.type for option in options_of(cls, prefix)}
    typed, wrong = dict[Path, Any](), dict[Path, str]()
    for path, value in values.items():
        hint, absent = hints[path], text and value is None
        if absent and hint is not bool:
            wrong[path] = "needs a value"
            continue
        try:
            typed[path] = _read(hint, True if absent else value)
        except ArgumentError as error:
            given = f"{'null' if value is None else repr(value)}{_culprit(hint, value)}"
            most = error.message if error.message.startswith(" from ") else ""
            wrong[path] = f"expected {type_name(hint)}{most}, got {given}"
    return typed, wrong


def _culprit(hint: Any, value: Any) -> str:
    """Which entry of a list is wrong."""
    for number, entry in enumerate(value if isinstance(value, list | tuple) and len(value) > 1 else (), 1):
        try:
            _read(hint, [entry])
        except ArgumentError:
            strange = ": text that YAML takes for something else needs quotes"
            more = strange if entry is None or isinstance(entry, bool) else ""
            return f"; entry {number} is {json.dumps(entry, default=str)}{more}"
    return ""


def schema(options: Sequence[Option]) -> dict[str, Any]:
    """A JSON schema of mappings that hold these options."""
    parser = ArgumentParser(exit_on_error=False, add_help=False)
    for option in options:
        missing = option.default is attrs.NOTHING
        settings = {"required": True} if missing else {"default": option.default}
        parser.add_argument(f"--{option.key}", type=option.type, help=option.doc, **settings)
    found: dict[str, Any] = json.loads(parser.get_completion_script("jsonschema"))
    return found


def build(cls: type, values: Mapping[str, Any], defaults: object = None) -> Any:
    """An options object from typed values in nested mappings.

    Args:
        cls: The options class.
        values: By field name; nested classes as mappings.
        defaults: An instance whose values stand where ``values`` has none; the class's own when None.

    Raises:
        ConfigError: for an unknown option, or a value that a validator refuses; the message is
            ``path.of.option: reason``, with an empty path when the reason is about several options.
    """
    fields = list(_fields(cls, defaults))
    for name in values:
        if name not in [field for field, _, _ in fields]:
            raise ConfigError(f"{name}: {cls.__name__} has no such option")
    arguments = {}
    for name, hint, default in fields:
        given = values.get(name, default)
        if attrs.has(hint) and isinstance(given, Mapping):
            try:
                given = build(hint, given, None if default is attrs.NOTHING else default)
            except ConfigError as error:
                raise ConfigError(f"{name}{'' if str(error).startswith(':') else '.'}{error}") from error
        if given is not attrs.NOTHING:
            arguments[name] = given
    try:
        return cls(**arguments)
    except (ValueError, TypeError) as error:
        text = message(error)
        about = re.match(r"'_*(\w+)' (.*)", text, re.DOTALL)  # a validator names the attribute first
        known = about is not None and about[1] in [name for name, _, _ in fields]
        raise ConfigError(f"{about[1]}: {about[2]}" if about and known else f": {text}") from error


def plain(value: Any) -> Any:
    """Data that YAML holds: mappings, lists, strings, numbers, booleans and null.

    Raises:
        PluginError: for a value that no config file could hold.
    """
    if value is None or (isinstance(value, str | bool | int | float) and not isinstance(value, enum.Enum)):
        return value
    if attrs.has(type(value)):
        return {f.alias: plain(getattr(value, f.name)) for f in attrs.fields(type(value)) if f.init}
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Set):
        return sorted(plain(item) for item in value)
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    raise PluginError(
        f"an option holds {value!r}, which no config file can hold. Options are numbers, strings, booleans, "
        "null, and lists, mappings or attrs classes of these."
    )


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested values by dotted name."""
    if not isinstance(value, Mapping) or not value:
        return {name: value}
    parts = (flat(inner, f"{name}.{key}" if name else str(key)) for key, inner in value.items())
    return {key: inner for part in parts for key, inner in part.items()}


def changed(before: Any, now: Any) -> list[tuple[str, Any, Any]]:
    """Dotted name, old and new value of what differs; None stands for what is missing."""
    old, new = flat(before), flat(now)
    pairs = ((name, old.get(name), new.get(name)) for name in {**old, **new})
    return [(name, was, value) for name, was, value in pairs if was != value]


def type_name(hint: Any) -> str:
    """An annotation as people read it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is None or hint is types.NoneType:
        return "null"
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(type_name, arguments))
    if isinstance(origin, type) and issubclass(origin, Sequence | Set):
        inner = [type_name(argument) for argument in arguments if argument is not Ellipsis]
        several = len(inner) > 1 or (Ellipsis not in arguments and origin is tuple)
        return f"[{', '.join(inner)}]" if several else f"list of {inner[0]}"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return " | ".join(member.name for member in hint)
    return hint.__name__ if isinstance(hint, type) and origin is None else str(hint).replace("typing.", "")


def words_of(hint: Any) -> list[str]:
    """The words that a value may be, as they are typed; none where it is no choice between words."""
    arguments = typing.get_args(hint)
    if hint is bool:
        return ["true", "false"]
    if typing.get_origin(hint) is Literal:
        return [*map(str, arguments)]
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return [member.name for member in hint]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [word for argument in arguments for word in words_of(argument)]
    return []


def _read(hint: Any, value: Any) -> Any:
    """A value of the annotated type.

    Raises:
        ArgumentError: for a value of another type.
    """
    found = _parser(hint).parse_object({"value": value})["value"]
    if found is None and not _allows_none(hint):
        raise ArgumentError(None, "null")
    if isinstance(found, int) and abs(found) > limits.WHOLE:
        raise ArgumentError(None, f" from {-limits.WHOLE} to {limits.WHOLE}")
    return found


@cache
def _parser(hint: Any) -> ArgumentParser:
    """What reads values of one type."""
    parser = ArgumentParser(exit_on_error=False, add_help=False)
    parser.add_argument("--value", type=hint)
    return parser


def _fields(cls: type, defaults: object) -> Iterator[tuple[str, Any, Any]]:
    """Argument name, annotation and default of each field that ``__init__`` takes."""
    try:
        hints = typing.get_type_hints(cls)
    except NameError as error:
        raise PluginError(
            f"{cls.__module__}.{cls.__qualname__}: an annotation cannot be read ({error}). Import the names "
            "of option types outside TYPE_CHECKING."
        ) from error
    for field in attrs.fields(cls):
        if not field.init:
            continue
        default = field.default if defaults is None else getattr(defaults, field.name)
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
            if default.takes_self:
                raise PluginError(
                    f"{cls.__qualname__}.{field.name}: a default must not depend on other options."
                )
            default = default.factory()
        yield field.alias, hints[field.name], default


def _allows_none(hint: Any) -> bool:
    return hint in (None, types.NoneType, Any) or any(map(_allows_none, typing.get_args(hint)))
