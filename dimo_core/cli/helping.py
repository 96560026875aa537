"""``--help`` of the commands whose options come from plugins."""

import argparse
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import yaml

from dimo_core.cli.arguments import SHORT
from dimo_core.config.draft import Draft
from dimo_core.config.sample import SamplingDraft
from dimo_core.errors import UnknownNameError
from dimo_core.options import Option, Path, first_line, plain, type_name
from dimo_core.sampler import listing

_PRECEDENCE = """\
Precedence: command line > config files (the last one first) > environment (DIMO_TRAIN__STEPS=100, \
DIMO_TEACHER=maskgit) > preset, where there are any > plugin default. The defaults shown count the config \
files, the environment and the preset of this command line. Everything is checked before anything starts."""

General = Sequence[tuple[str, str | None, str]]
"""Options outside the configuration: option string, what its value is called (None for a flag), and text."""

More = Callable[[argparse.ArgumentParser, argparse._ArgumentGroup], None]
"""Adds what else a command's help shows, to the parser and to its general options."""

_GENERAL: General = (
    ("--config", "FILE", "YAML file of options, a path or URL; may be repeated, later files win"),
    ("--print_config", None, "print the resolved configuration as YAML and stop"),
    ("--resume", "FOLDER", "continue the run in this folder; only --device may change and --steps may grow"),
)


def run_help(draft: Draft) -> str:
    """The help text of ``dimo run`` for the chosen plugins.

    Raises:
        UnknownNameError: when the command line names a plugin that does not exist.
    """
    description = (
        "Distil a teacher into a one-step generator. Options follow the chosen plugins: name another teacher "
        "or divergence, and --help shows its options."
    )
    presets = f"recipe of the teacher: {_names(draft.presets, draft.preset)}"
    general = [
        ("--preset", "NAME", presets),
        *_GENERAL,
        ("--dry-run", None, "build all without weights, print options, parameters and memory, and stop"),
    ]
    return _help(draft, "dimo run", description, general, SHORT)


def pretrain_help(draft: Draft, short: Mapping[str, Path]) -> str:
    """The help text of ``dimo pretrain`` for the chosen plugins and these short forms.

    Raises:
        UnknownNameError: when the command line names a plugin that does not exist.
    """
    description = (
        "Train a masked diffusion teacher from images, with a tokenizer fitted to them. The result is a "
        "folder that --teacher.checkpoint of `dimo run` takes."
    )
    return _help(draft, "dimo pretrain", description, _GENERAL, short)


def convert_help(draft: Draft) -> str:
    """The help text of ``dimo convert`` for the chosen plugins.

    Raises:
        UnknownNameError: when the command line names a plugin that does not exist.
    """
    description = (
        "Turn foreign weights into a folder of safetensors and YAML: those that the teacher's options name, "
        "or, with --generator.init FILE, those of a published one-step generator of that teacher. Files are "
        "read without executing anything in them, and must fit exactly."
    )
    general = [option for option in _GENERAL if option[0] != "--resume"]
    return _help(draft, "dimo convert", description, general, {})


def sample_help(
    drafted: SamplingDraft,
    short: Mapping[str, Path],
    drawing: Callable[[Callable[..., argparse.Action]], None],
) -> str:
    """The help text of ``dimo sample --teacher`` for the chosen plugins.

    Args:
        drafted: Chosen plugins, and the teacher's samplings.
        short: Short forms of the command.
        drawing: Adds the options that are outside the configuration.

    Raises:
        UnknownNameError: when the command line names a plugin or a sampling that does not exist.
    """
    description = (
        "Draw samples from a teacher in many steps: pictures or lines, and their tokens. A named sampling "
        "is a preset of steps, sampler and guidance; options that are given besides override it."
    )
    general = [option for option in _GENERAL if option[0] != "--resume"]

    def more(parser: argparse.ArgumentParser, top: argparse._ArgumentGroup) -> None:
        drawing(top.add_argument)
        shown = parser.add_argument_group("samplings of the teacher")
        for name, text in listing(drafted.samplings).items():
            shown.add_argument(name, help=text.replace("%", "%%"))

    return _help(drafted.draft, "dimo sample --teacher NAME", description, general, short, more)


def _help(
    draft: Draft,
    prog: str,
    description: str,
    general: General,
    short: Mapping[str, Path],
    more: More = lambda parser, top: None,
) -> str:
    problems = draft.context.problems.found
    for problem in problems:
        if isinstance(problem, UnknownNameError):
            raise problem
    wrong = ["Wrong in this command line:", *map(str, problems)] if problems else []
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} [OPTIONS]",
        description=description,
        epilog="\n\n".join([_PRECEDENCE, *wrong]),
        add_help=False,
        formatter_class=_Formatter,
    )
    top = parser.add_argument_group("general")
    top.add_argument("-h", "--help", action="store_true", help="show this text and stop")
    for option, metavar, text in general:
        _add(top, [option], metavar, text)
    more(parser, top)
    _add(top, ["--log-level"], "LEVEL", "trace | debug | info | warning | error (default: info)")
    for scalar in draft.scalars:
        _add_option(top, scalar, draft, short)
    for key, section in draft.sections.items():
        title = f"{section.title}: {first_line(section.cls)}" if section.cls else section.title
        shown = parser.add_argument_group(title.rstrip("."))
        if section.name:
            _add(shown, [f"--{key}"], "NAME", _names(draft.context.registry.names(key), section.name))
        for inner in section.options():
            _add_option(shown, inner, draft, short)
    return parser.format_help()


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Fills paragraphs, keeps blank lines, and leaves room for long option strings."""

    def __init__(self, prog: str) -> None:
        width = max(60, min(shutil.get_terminal_size().columns, 110))
        super().__init__(prog, max_help_position=36, width=width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = argparse.HelpFormatter._fill_text
        return "\n\n".join(fill(self, part, width, indent) for part in text.split("\n\n"))


def _add_option(
    shown: argparse._ArgumentGroup, option: Option, draft: Draft, short: Mapping[str, Path]
) -> None:
    names = [f"--{name.replace('_', '-')}" for name, path in short.items() if path == option.path]
    value = draft.value(option)
    default = "required" if value is attrs.NOTHING else f"default: {_text(value)}"
    text = f"{option.doc} ({type_name(option.type)}, {default})".lstrip()
    _add(shown, [f"--{option.key}", *names], option.path[-1].upper(), text)


def _add(shown: argparse._ArgumentGroup, names: Sequence[str], metavar: str | None, text: str) -> None:
    escaped = text.replace("%", "%%")
    if metavar is None:
        shown.add_argument(*names, action="store_true", help=escaped)
    else:
        shown.add_argument(*names, metavar=metavar, help=escaped)


def _names(names: Sequence[str], default: str | None) -> str:
    return f"{' | '.join(names)} (default: {default})" if names else "(there is none)"


def _text(value: Any) -> str:
    """A value as it would be typed."""
    typed = yaml.safe_dump(plain(value), default_flow_style=True, width=10_000)
    return str(typed).removesuffix("...\n").strip()
