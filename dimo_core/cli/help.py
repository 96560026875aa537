"""What ``--help`` and ``--print_schema`` say of a command whose options belong to plugins."""

import argparse
import shutil
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import yaml

from dimo_core.config.draft import Draft
from dimo_core.errors import UnknownNameError
from dimo_core.options import Option, Path, first_line, options_of, plain, schema, type_name, words_of
from dimo_core.registry import Registry
from dimo_core.suggestions import listing

_PRESET = "recipe of the teacher"

_PRECEDENCE = """\
Precedence: command line > config files (the last one first) > environment (DIMO_TRAIN__STEPS=100, \
DIMO_TEACHER=maskgit) > preset, where there are any > plugin default. The defaults shown count the config \
files, the environment and the preset of this command line. Everything is checked before anything starts."""

_OVERVIEW = """\
This is an overview. Options of plugins, and the presets of a teacher, are shown where a plugin is named: \
`{} --{} {} --help`. `dimo plugins KIND` says what each plugin is."""


def schema_of(draft: Draft) -> dict[str, Any]:
    """A JSON schema of configuration files for the chosen plugins, with the defaults that the help shows.

    Raises:
        DimoError: for all mistakes at once.
    """
    draft.check()
    preset = Option(path=("preset",), type=str | None, default=draft.preset, doc=_PRESET)
    options = [preset] if "preset" in draft.keys else []
    named = {key: section.name for key, section in draft.sections.items() if section.name}
    options += [Option(path=(key, "name"), type=str, default=name, doc="") for key, name in named.items()]
    for section in draft.sections.values():
        options += [attrs.evolve(option, default=draft.value(option)) for option in section.options()]
    found = schema(options)
    for key, name in named.items():
        names = {"enum": draft.registry.names(key), "default": name}
        found["properties"][key]["properties"]["name"] = names
        found["properties"][key] = {"anyOf": [names, found["properties"][key]]}
    return found


def help_text(
    parser: argparse.ArgumentParser, top: argparse._ActionsContainer, draft: Draft, short: Mapping[str, Path]
) -> str:
    """The help text for the chosen plugins.

    Args:
        parser: Of the command's other options; those of the plugins are added.
        top: Where it shows general options.
        draft: Of the command's job.
        short: Short forms that the command has.

    Raises:
        UnknownNameError: when the command line names a plugin or a sampling that does not exist.
    """
    problems = draft.problems
    for problem in problems:
        if isinstance(problem, UnknownNameError):
            raise problem
    wrong = ["Wrong in this command line:", *dict.fromkeys(map(str, problems))] if problems else []
    _lay_out(parser, [_PRECEDENCE, *wrong])
    if "preset" in draft.keys:
        text = f"{_PRESET}: {_names(draft.presets, draft.preset)}"
        _add(top, ["--preset"], "NAME", text, draft.presets)
    if "sampling" in draft.keys:
        shown = parser.add_argument_group("samplings of the teacher")
        for name, text in listing(draft.presets).items():
            shown.add_argument(name, help=text.replace("%", "%%"))
    for key, section in draft.sections.items():
        to = _group(parser, section.title, section.cls) if key else top
        if section.name:
            names = draft.registry.names(key)
            _add(to, [f"--{key}"], "NAME", _names(names, section.name), names)
        for each in section.options():
            value = draft.value(each)
            words = draft.presets if each.key == "sampling" else ()
            default = "required" if value is attrs.NOTHING else f"default: {typed(value)}"
            _describe(to, each, default, short, words)
    return parser.format_help()


def overview_text(
    parser: argparse.ArgumentParser,
    top: argparse._ActionsContainer,
    draft: type[Draft],
    registry: Registry,
    short: Mapping[str, Path],
) -> str:
    """The help text where nothing is chosen: plugins by name, none of which is imported, and other options.

    Args:
        parser: Of the command's other options.
        top: Where it shows general options.
        draft: Makes the command's job.
        registry: The installed plugins.
        short: Short forms that the command has.
    """
    kinds = [kind for kind in draft.keys if kind in draft.defaults]
    presets = "preset" in draft.keys
    named = (parser.prog, kinds[0], draft.defaults[kinds[0]])
    _lay_out(parser, [_PRECEDENCE, _OVERVIEW.format(*named)])
    to: argparse._ActionsContainer = parser.add_argument_group("plugins, one of each kind")
    for kind in kinds:
        names = registry.names(kind)
        _add(to, [f"--{kind}"], "NAME", _names(names, draft.defaults[kind]), names)
    if presets:
        _add(top, ["--preset"], "NAME", f"{_PRESET}, which sets options of plugins and of the engine")
    for key, cls in draft.groups.items():
        to = _group(parser, key, cls) if key else top
        for each in options_of(cls, (key,) if key else ()):
            alone = "without a preset" if presets and key else "default"
            _describe(to, each, f"{alone}: {typed(each.default)}", short)
    return parser.format_help()


class _WholeNames(argparse.RawDescriptionHelpFormatter):
    """Never breaks a line within a name such as image-folder, which would be copied wrongly."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


def _group(parser: argparse.ArgumentParser, title: str, cls: type | None) -> argparse._ActionsContainer:
    """A group of options, with what its class is on lines of their own."""
    about = textwrap.fill(first_line(cls), _width() - 4) if cls else None
    return parser.add_argument_group(title, about)


def _width() -> int:
    return max(60, min(shutil.get_terminal_size().columns, 110))


def _lay_out(parser: argparse.ArgumentParser, epilog: Sequence[str]) -> None:
    """Usage, width and epilog of a help text."""
    width = _width()
    form = partial(_WholeNames, max_help_position=36, width=width)
    parser.usage, parser.formatter_class = f"{parser.prog} [OPTIONS]", form
    parser.description = textwrap.fill(parser.description or "", width)
    parser.epilog = "\n\n".join(textwrap.fill(text, width) for text in epilog)


def _describe(
    to: argparse._ActionsContainer,
    option: Option,
    default: str,
    short: Mapping[str, Path],
    words: Iterable[str] = (),
) -> None:
    forms = [f"--{name.replace('_', '-')}" for name, path in short.items() if path == option.path]
    text = f"{option.doc} ({type_name(option.type)}, {default})".lstrip()
    _add(to, [f"--{option.key}", *forms], option.path[-1].upper(), text, words or words_of(option.type))


def _add(
    to: argparse._ActionsContainer, names: Sequence[str], value: str, text: str, choices: Iterable[str] = ()
) -> None:
    known = [*choices] or None  # not for the text, which has them already: for shells
    to.add_argument(*names, metavar=value, help=text.replace("%", "%%"), choices=known)


def _names(names: Collection[str], default: str | None) -> str:
    return f"{' | '.join(names)} (default: {default})" if names else "(there is none)"


def typed(value: Any) -> str:
    """A value as it would be typed."""
    text = yaml.safe_dump(plain(value), default_flow_style=True, width=10_000)
    return str(text).removesuffix("...\n").strip()
