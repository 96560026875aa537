"""Commands whose options belong to plugins that the command line names: arguments, job and help.

Every option is ``--name value`` or ``--name=value``, so no parser has to know them; what they mean, and
whether they exist, is checked against the chosen plugins together with config files.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import attrs
import yaml

from dimo_core.config.draft import Draft
from dimo_core.config.layers import Context, Layer, from_environment, from_file, from_pairs
from dimo_core.config.resume import resumed
from dimo_core.errors import ConfigError, UnknownNameError, UsageError
from dimo_core.hookspecs import KINDS
from dimo_core.options import Option, Path, first_line, plain, schema, type_name
from dimo_core.registry import Registry

GENERAL: Mapping[str, tuple[str, str]] = {
    "preset": ("NAME", "recipe of the teacher"),
    "config": ("FILE", "YAML file of options, a path or URL; may be repeated, later files win"),
    "print_config": ("", "print the resolved configuration as YAML and stop"),
    "print_schema": ("", "print a JSON schema of configuration files for these plugins and stop"),
    "resume": ("FOLDER", "continue the run in this folder; only --device may change and --steps may grow"),
    "dry-run": ("", "build all without weights, print options, parameters and memory, and stop"),
}
"""What the help says of options outside the sections: what a value is called (empty for a flag), and text."""

FLAGS = ("help", "print_config", "print_schema", "dry_run")
"""Options of the commands that take no value."""

_PRECEDENCE = """\
Precedence: command line > config files (the last one first) > environment (DIMO_TRAIN__STEPS=100, \
DIMO_TEACHER=maskgit) > preset, where there are any > plugin default. The defaults shown count the config \
files, the environment and the preset of this command line. Everything is checked before anything starts."""

SHORT: Mapping[str, Path] = {
    "beta": ("divergence", "beta"),
    "steps": ("train", "steps"),
    "batch_size": ("train", "batch_size"),
}
"""Short forms of what people type most."""


@attrs.frozen(kw_only=True)
class Arguments:
    """A command line, taken apart.

    Attributes:
        flags: Which of ``FLAGS`` were given.
        config: Values of ``--config``, in order.
        resume: Value of ``--resume``; empty when not given.
        layer: Everything else, by path.
    """

    flags: frozenset[str]
    config: tuple[str, ...]
    resume: str
    layer: Layer


def read(argv: Sequence[str], short: Mapping[str, Path]) -> Arguments:
    """Take a command line apart.

    Args:
        argv: Arguments after the command.
        short: Short forms that the command has.

    Raises:
        UsageError: for what is no option, or lacks its value.
    """
    flags: set[str] = set()
    plain: dict[str, list[str]] = {"config": [], "resume": []}  # no part of the configuration
    pairs: list[tuple[Path, str | None, str]] = []
    rest = ["--help" if token == "-h" else token for token in argv]
    while rest:
        token = rest.pop(0)
        if not token.startswith("--") or token == "--":
            raise UsageError(f"unexpected argument {token!r}. Options are written --name value; see --help.")
        written, has_value, value = token.partition("=")
        name = written[2:].replace("-", "_")
        if name in FLAGS:
            if has_value:
                raise UsageError(f"{written} takes no value, got {value!r}")
            flags.add(name)
            continue
        # A negative number is the value of the option before it, an option is not.
        given = value if has_value else rest.pop(0) if rest and not rest[0].startswith("--") else None
        path = short.get(name) or tuple(name.split("."))
        if given is None and (name in (*KINDS, *plain, "preset") or path[-1] == "name"):
            raise ConfigError(f"{written} needs a value")
        if name in plain:
            plain[name].append(str(given))
        else:
            pairs.append((path, given, written))
    return Arguments(
        flags=frozenset(flags),
        config=tuple(plain["config"]),
        resume="".join(plain["resume"][-1:]),
        layer=from_pairs(pairs, "the command line"),
    )


@attrs.frozen(kw_only=True)
class Command:
    """A command whose options belong to plugins.

    Attributes:
        prog: ``dimo run``.
        about: What it does.
        keys: Top-level keys of its configuration.
        draft: Makes sections and values of layers.
        job_of: Makes the job of a draft.
        short: Short forms that it has.
        takes: What else of ``GENERAL`` it has.
        more: Adds what else its help shows, to the parser and to the general options.
    """

    prog: str
    about: str
    keys: Sequence[str]
    draft: Callable[[Sequence[Layer], Context], Draft]
    job_of: Callable[[Draft], Any]
    short: Mapping[str, Path] = attrs.field(factory=dict)
    takes: Sequence[str] = ()
    more: Callable[[argparse.ArgumentParser, argparse._ArgumentGroup, Draft], None] | None = None

    def job(self, given: Arguments, registry: Registry) -> Any:
        """The job that a command line asks for; None where it asks for a text, which is printed.

        Raises:
            DimoError: for all mistakes at once.
        """
        if not self.takes and (given.resume or "dry_run" in given.flags):
            raise UsageError("--dry-run and --resume are options of `dimo run`")
        explicit = [*map(from_file, given.config), given.layer]
        if given.resume and not given.flags & {"help", "print_schema"}:

            def again(layers: Sequence[Layer]) -> Any:
                return self.job_of(self.draft(layers, Context(registry=registry, suggestions=False)))

            job = resumed(given.resume, explicit, again)
        else:
            layers = [from_environment(os.environ, self.keys), *explicit]
            draft = self.draft(layers, Context(registry=registry, short=[*self.short]))
            if "help" in given.flags:
                sys.stdout.write(self.help(draft))
                return None
            if "print_schema" in given.flags:
                print(json.dumps(self.schema(draft), indent=1))
                return None
            job = self.job_of(draft)
        if "print_config" in given.flags:
            sys.stdout.write(yaml.safe_dump(job.config, sort_keys=False, allow_unicode=True))
            return None
        return job

    def schema(self, draft: Draft) -> dict[str, Any]:
        """A JSON schema of configuration files for the chosen plugins, with the defaults that the help shows.

        Raises:
            DimoError: for all mistakes at once.
        """
        draft.context.check()
        preset = Option(path=("preset",), type=str | None, default=draft.preset, doc=GENERAL["preset"][1])
        options = [preset] if "preset" in self.keys else []
        named = {key: section.name for key, section in draft.sections.items() if section.name}
        options += [Option(path=(key, "name"), type=str, default=name, doc="") for key, name in named.items()]
        for section in draft.sections.values():
            options += [attrs.evolve(option, default=draft.value(option)) for option in section.options()]
        found = schema(options)
        for key, name in named.items():
            names = {"enum": draft.context.registry.names(key), "default": name}
            found["properties"][key]["properties"]["name"] = names
            found["properties"][key] = {"anyOf": [names, found["properties"][key]]}
        return found

    def help(self, draft: Draft) -> str:
        """The help text for the chosen plugins.

        Raises:
            UnknownNameError: when the command line names a plugin or a sampling that does not exist.
        """
        problems = draft.context.problems
        for problem in problems:
            if isinstance(problem, UnknownNameError):
                raise problem
        wrong = ["Wrong in this command line:", *map(str, problems)] if problems else []
        parser = argparse.ArgumentParser(
            prog=self.prog,
            usage=f"{self.prog} [OPTIONS]",
            description=self.about,
            epilog="\n\n".join([_PRECEDENCE, *wrong]),
            add_help=False,
            formatter_class=_Formatter,
        )
        top = parser.add_argument_group("general")
        top.add_argument("-h", "--help", action="store_true", help="show this text and stop")
        for name, (metavar, text) in GENERAL.items():
            if name in ("config", "print_config", "print_schema", *self.takes):
                text += f": {_names(draft.presets, draft.preset)}" if name == "preset" else ""
                _add(top, [f"--{name}"], metavar, text)
        if self.more is not None:
            self.more(parser, top, draft)
        _add(top, ["--log-level"], "LEVEL", "trace | debug | info | warning | error (default: info)")
        for key, section in draft.sections.items():
            title = f"{section.title}: {first_line(section.cls)}" if section.cls else section.title
            shown = parser.add_argument_group(title.rstrip(".")) if key else top
            if section.name:
                names = draft.context.registry.names(key)
                _add(shown, [f"--{key}"], "NAME", _names(names, section.name))
            for option in section.options():
                self._add_option(shown, option, draft)
        return parser.format_help()

    def _add_option(self, shown: argparse._ArgumentGroup, option: Option, draft: Draft) -> None:
        short = [f"--{name.replace('_', '-')}" for name, path in self.short.items() if path == option.path]
        value = draft.value(option)
        default = "required" if value is attrs.NOTHING else f"default: {_text(value)}"
        text = f"{option.doc} ({type_name(option.type)}, {default})".lstrip()
        _add(shown, [f"--{option.key}", *short], option.path[-1].upper(), text)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Fills paragraphs, keeps blank lines, and leaves room for long option strings."""

    def __init__(self, prog: str) -> None:
        width = max(60, min(shutil.get_terminal_size().columns, 110))
        super().__init__(prog, max_help_position=36, width=width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = argparse.HelpFormatter._fill_text
        return "\n\n".join(fill(self, part, width, indent) for part in text.split("\n\n"))


def _add(shown: argparse._ArgumentGroup, names: Sequence[str], metavar: str, text: str) -> None:
    escaped = text.replace("%", "%%")
    if not metavar:
        shown.add_argument(*names, action="store_true", help=escaped)
    else:
        shown.add_argument(*names, metavar=metavar, help=escaped)


def _names(names: Collection[str], default: str | None) -> str:
    return f"{' | '.join(names)} (default: {default})" if names else "(there is none)"


def _text(value: Any) -> str:
    """A value as it would be typed."""
    typed = yaml.safe_dump(plain(value), default_flow_style=True, width=10_000)
    return str(typed).removesuffix("...\n").strip()
