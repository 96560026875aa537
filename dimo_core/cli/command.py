"""How words on a command line are read, and ``dimo run``, ``pretrain`` and ``convert``.

argparse reads the options that a command has in any case. All others belong to the plugins that the words
name. They are ``--name value`` or ``--name=value``, so no parser has to know them; what they mean, and
whether they exist, is checked against the chosen plugins together with config files.
"""

import argparse
import json
import os
import sys
from argparse import SUPPRESS
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NoReturn

import attrs
import yaml
from loguru import logger

from dimo_core.cli.streams import follows
from dimo_core.config.draft import Draft
from dimo_core.config.folders import AUTO, resumed, run_in
from dimo_core.config.layers import Layer, from_environment, from_file, from_pairs
from dimo_core.errors import ConfigError, UsageError
from dimo_core.hookspecs import KINDS
from dimo_core.options import Path
from dimo_core.registry import Registry
from dimo_core.texts import log_filter

SHORT: Mapping[str, Path] = {
    "beta": ("divergence", "beta"),
    "steps": ("train", "steps"),
    "batch_size": ("train", "batch_size"),
    "precision": ("train", "precision"),
}
"""Short forms of what people type most."""

LEVELS = ("trace", "debug", "info", "warning", "error")

SHOWN: ContextVar[Callable[[argparse.ArgumentParser], str]] = ContextVar(
    "help text", default=argparse.ArgumentParser.format_help
)
"""What a command's help is, from its parser; who wants its options, such as a shell, takes them here."""

STRAY = "unexpected argument {!r}. Options are written --name value; see --help."


class Parser(argparse.ArgumentParser):
    """A parser without abbreviations, whose errors are ``UsageError``."""

    def __init__(self, prog: str, description: str, epilog: str = "", **more: Any) -> None:
        """Name the command and what it does."""
        super().__init__(prog=prog, description=description, epilog=epilog, allow_abbrev=False, **more)
        self.top = self if self.add_help else self.add_argument_group("general")
        level = os.environ.get("DIMO_LOG_LEVEL") or "info"
        levels = f"{' | '.join(LEVELS)} (default: info)"
        option(self.top, "--log-level", "LEVEL", levels, type=log_from, default=level)

    def format_help(self) -> str:
        """The help text."""
        return SHOWN.get()(self)

    def error(self, message: str) -> NoReturn:
        """Raise ``UsageError``."""
        raise UsageError(f"{message}. `{self.prog} --help` lists the options.")


def option(to: argparse._ActionsContainer, names: str, value: str, text: str, **more: Any) -> None:
    """Add an option; ``-`` and ``_`` are the same in its name.

    Args:
        to: Parser, or group of one.
        names: Its names, separated by spaces.
        value: What its value is called, with ``...`` after it where there may be several; empty for a flag.
        text: Its help.
        more: As for ``add_argument``.
    """
    name, several, _ = value.partition(" ...")
    more |= {"metavar": name} if name else {"action": "store_true"}
    more |= {"nargs": "+"} if several else {}
    added = to.add_argument(*names.split(), help=text.replace("%", "%%"), **more)
    for known in added.option_strings:
        twin = "--" + known[2:].translate({ord("-"): "_", ord("_"): "-"})
        if known.startswith("--") and twin != known:
            to.add_argument(twin, **more | {"dest": added.dest, "default": SUPPRESS, "help": SUPPRESS})


def log_from(level: str) -> str:
    """Log to stderr what is at least of this level; of processes that follow another one, errors only.

    Raises:
        UsageError: for another level than ``LEVELS``.
    """
    if level.lower() not in LEVELS:
        raise UsageError(f"unknown log level {level!r}. Levels: {', '.join(LEVELS)}")
    logger.remove()
    logger.add(
        lambda text: print(text, end="", file=sys.stderr),  # as it is then: a live bar takes its place
        colorize=sys.stderr.isatty(),
        level="ERROR" if follows() else level.upper(),
        filter=log_filter,
        format="<dim>{time:HH:mm:ss}</dim> <level>{level: <7}</level> {message}",
    )
    return level


def configs(to: argparse._ActionsContainer) -> None:
    """Add ``--config``."""
    text = "YAML file of options, a path or URL; may be repeated, later files win"
    option(to, "--config", "FILE", text, action="append", default=[])


def words(rest: Sequence[str], short: Mapping[str, Path], stray: str = STRAY) -> Layer:
    """The layer of what argparse has left: options by path.

    Args:
        rest: Arguments.
        short: Short forms that the command has.
        stray: What is said of an argument that is no option.

    Raises:
        UsageError: for what is no option, or lacks its value.
    """
    pairs: list[tuple[Path, str | None, str]] = []
    left = [*rest]
    while left:
        token = left.pop(0)
        if not token.startswith("--") or token == "--":
            raise UsageError(stray.format(token))
        written, has_value, value = token.partition("=")
        name = written[2:].replace("-", "_")
        # A negative number is the value of the option before it, an option is not.
        given = value if has_value else left.pop(0) if left and not left[0].startswith("--") else None
        path = short.get(name) or tuple(name.split("."))
        if given is None and (name in (*KINDS, "preset") or path[-1] == "name"):
            raise ConfigError(f"{written} needs a value")
        pairs.append((path, given, written))
    return from_pairs(pairs, "the command line")


@attrs.frozen(kw_only=True)
class Command:
    """A command whose options belong to plugins.

    Attributes:
        prog: ``dimo run``.
        about: What it does.
        draft: Makes its job.
        short: Short forms that it has.
        resumes: Whether it has ``--resume``.
        dry: Whether it has ``--dry-run``.
        more: Adds further options of its own.
        stray: What is said of an argument that is no option.
    """

    prog: str
    about: str
    draft: type[Draft]
    short: Mapping[str, Path] = attrs.field(factory=dict)
    resumes: bool = False
    dry: bool = False
    more: Callable[[argparse._ActionsContainer], None] | None = None
    stray: str = STRAY

    def parser(self) -> Parser:
        """Reads the options that no plugin has."""
        parser = Parser(self.prog, self.about, add_help=False)
        option(parser.top, "-h --help", "", "show this text and stop")
        configs(parser.top)
        option(parser.top, "--print_config", "", "print the resolved configuration as YAML and stop")
        schema = "print a JSON schema of configuration files for these plugins and stop"
        option(parser.top, "--print_schema", "", schema)
        if self.resumes:
            text = (
                "continue the run in this folder; only --device may change and --steps may grow. auto: the "
                "one in --out, which is started where there is none yet"
            )
            option(parser.top, "--resume", "FOLDER", text)
        if self.dry:
            text = "build all without weights, print options, parameters and memory, and stop"
            option(parser.top, "--dry-run", "", text)
        if self.more is not None:
            self.more(parser.top)
        parser.set_defaults(resume=None, dry_run=False)
        return parser

    def job(self, argv: Sequence[str], registry: Registry) -> tuple[Any, argparse.Namespace]:
        """The job that a command line asks for, None where it asks for a text, and the options besides.

        Raises:
            DimoError: for all mistakes at once.
        """
        parser = self.parser()
        options, rest = parser.parse_known_args(list(argv))
        layer = words(rest, self.short, self.stray)
        for name, commands in (("resume", "`dimo run` and `dimo pretrain`"), ("dry_run", "`dimo run`")):
            if name in layer.data:
                raise UsageError(f"--{name.replace('_', '-')} is an option of {commands} only")
        explicit, folder = [*map(from_file, options.config), layer], options.resume
        if folder == AUTO and not options.help:
            options.resume = folder = run_in([from_environment(os.environ, self.draft.keys), *explicit])
        if folder and options.dry_run and not options.help:
            raise UsageError("--dry-run starts nothing and --resume continues a run: give one of them")
        if folder and not options.help and not options.print_schema:
            job = resumed(self.draft, folder, explicit, registry)
        else:
            layers = [from_environment(os.environ, self.draft.keys), *explicit]
            # What the environment holds besides is ignored.
            chosen = (
                layer.data.keys() & {*self.draft.keys} if layer.lenient else layer.data for layer in layers
            )
            if options.help and not any(chosen):
                from dimo_core.cli.help import overview_text

                print(overview_text(parser, parser.top, self.draft, registry, self.short))
                return None, options
            draft = self.draft(layers=layers, registry=registry, short=self.short)
            if options.help or options.print_schema:
                from dimo_core.cli.help import help_text, schema_of

                schema = "" if options.help else json.dumps(schema_of(draft), indent=1)
                print(schema or help_text(parser, parser.top, draft, self.short))
                return None, options
            job = draft.job()
        if options.print_config:
            sys.stdout.write(yaml.safe_dump(job.config, sort_keys=False, allow_unicode=True))
            job = None
        return job, options


def run(argv: Sequence[str]) -> int:
    """``dimo run``: distil a teacher into a generator of one or a few steps."""
    from dimo_core.config.distil import DistilDraft

    command = Command(
        prog="dimo run",
        about="Distil a teacher into a generator of one or a few steps. Options follow the chosen plugins: "
        "name another teacher or divergence, and --help shows its options.",
        draft=DistilDraft,
        short=SHORT,
        resumes=True,
        dry=True,
    )
    registry = Registry.discover()
    job, options = command.job(argv, registry)
    if job is None:
        return 0

    from dimo_core.jobs.distil import run
    from dimo_core.jobs.dry_run import dry_run

    if options.dry_run:
        dry_run(job)
    else:
        run(job, registry=registry, resume=bool(options.resume))
    return 0


def pretrain(argv: Sequence[str]) -> int:
    """``dimo pretrain``: train a masked diffusion teacher from images or texts."""
    from dimo_core.config.pretrain import PretrainDraft

    command = Command(
        prog="dimo pretrain",
        about="Train a masked diffusion teacher from images or texts, with a tokenizer fitted to them. The "
        "result is a folder that --teacher.checkpoint of `dimo run` takes.",
        draft=PretrainDraft,
        short={name: path for name, path in SHORT.items() if path[0] == "train"},
        resumes=True,
    )
    registry = Registry.discover()
    job, options = command.job(argv, registry)
    if job is not None:
        from dimo_core.jobs.pretrain import pretrain

        pretrain(job, registry=registry, resume=bool(options.resume))
    return 0


def convert(argv: Sequence[str]) -> int:
    """``dimo convert``: foreign weights into a folder of safetensors and YAML."""
    from dimo_core.config.convert import ConvertDraft

    command = Command(
        prog="dimo convert",
        about="Turn foreign weights into a folder of safetensors and YAML: those that the teacher's options "
        "name, or, with --generator.init FILE, those of a published generator of that teacher. Files are "
        "read without executing anything in them, and must fit exactly.",
        draft=ConvertDraft,
    )
    if (job := command.job(argv, Registry.discover())[0]) is not None:
        from dimo_core.jobs.convert import convert

        convert(job)
    return 0
