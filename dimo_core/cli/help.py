"""What ``--help`` and ``--print_schema`` say of a command whose options belong to plugins."""

import argparse
import shutil
from collections.abc import Collection, Mapping
from typing import Any

import attrs
import yaml

from dimo_core.cli.command import Command
from dimo_core.cli.parsing import log_level, option
from dimo_core.config.draft import Draft
from dimo_core.errors import UnknownNameError
from dimo_core.options import Option, first_line, plain, schema, type_name

GENERAL: Mapping[str, tuple[str, str]] = {
    "preset": ("NAME", "recipe of the teacher"),
    "config": ("FILE", "YAML file of options, a path or URL; may be repeated, later files win"),
    "print_config": ("", "print the resolved configuration as YAML and stop"),
    "print_schema": ("", "print a JSON schema of configuration files for these plugins and stop"),
    "resume": ("FOLDER", "continue the run in this folder; only --device may change and --steps may grow"),
    "dry-run": ("", "build all without weights, print options, parameters and memory, and stop"),
}
"""What the help says of options outside the sections: what a value is called (empty for a flag), and text."""

_PRECEDENCE = """\
Precedence: command line > config files (the last one first) > environment (DIMO_TRAIN__STEPS=100, \
DIMO_TEACHER=maskgit) > preset, where there are any > plugin default. The defaults shown count the config \
files, the environment and the preset of this command line. Everything is checked before anything starts."""


def schema_of(draft: Draft) -> dict[str, Any]:
    """A JSON schema of configuration files for the chosen plugins, with the defaults that the help shows.

    Raises:
        DimoError: for all mistakes at once.
    """
    draft.check()
    preset = Option(path=("preset",), type=str | None, default=draft.preset, doc=GENERAL["preset"][1])
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


def help_text(command: Command, draft: Draft) -> str:
    """The help text for the chosen plugins.

    Raises:
        UnknownNameError: when the command line names a plugin or a sampling that does not exist.
    """
    problems = draft.problems
    for problem in problems:
        if isinstance(problem, UnknownNameError):
            raise problem
    wrong = ["Wrong in this command line:", *map(str, problems)] if problems else []
    parser = argparse.ArgumentParser(
        prog=command.prog,
        usage=f"{command.prog} [OPTIONS]",
        description=command.about,
        epilog="\n\n".join([_PRECEDENCE, *wrong]),
        add_help=False,
        formatter_class=_Formatter,
    )
    top = parser.add_argument_group("general")
    option(top, "-h --help", "", "show this text and stop")
    for name, (metavar, text) in GENERAL.items():
        if name in ("config", "print_config", "print_schema", *command.takes):
            text += f": {_names(draft.presets, draft.preset)}" if name == "preset" else ""
            option(top, f"--{name}", metavar, text)
    if command.more is not None:
        command.more(parser, top, draft)
    log_level(top)
    for key, section in draft.sections.items():
        title = f"{section.title}: {first_line(section.cls)}" if section.cls else section.title
        shown = parser.add_argument_group(title.rstrip(".")) if key else top
        if section.name:
            names = draft.registry.names(key)
            option(shown, f"--{key}", "NAME", _names(names, section.name))
        for each in section.options():
            _add_option(shown, each, draft, command)
    return parser.format_help()


def _add_option(shown: argparse._ArgumentGroup, which: Option, draft: Draft, command: Command) -> None:
    short = [f"--{name.replace('_', '-')}" for name, path in command.short.items() if path == which.path]
    value = draft.value(which)
    default = "required" if value is attrs.NOTHING else f"default: {_text(value)}"
    text = f"{which.doc} ({type_name(which.type)}, {default})".lstrip()
    option(shown, " ".join([f"--{which.key}", *short]), which.path[-1].upper(), text)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Fills paragraphs, keeps blank lines, and leaves room for long option strings."""

    def __init__(self, prog: str) -> None:
        width = max(60, min(shutil.get_terminal_size().columns, 110))
        super().__init__(prog, max_help_position=36, width=width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = argparse.HelpFormatter._fill_text
        return "\n\n".join(fill(self, part, width, indent) for part in text.split("\n\n"))


def _names(names: Collection[str], default: str | None) -> str:
    return f"{' | '.join(names)} (default: {default})" if names else "(there is none)"


def _text(value: Any) -> str:
    """A value as it would be typed."""
    typed = yaml.safe_dump(plain(value), default_flow_style=True, width=10_000)
    return str(typed).removesuffix("...\n").strip()
