"""``dimo run``, ``pretrain`` and ``convert``: commands whose options belong to plugins that the words name.

Every option is ``--name value`` or ``--name=value``, so no parser has to know them; what they mean, and
whether they exist, is checked against the chosen plugins together with config files.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import yaml

from dimo_core.config.draft import Draft
from dimo_core.config.folders import resumed
from dimo_core.config.layers import Layer, from_environment, from_file, from_pairs
from dimo_core.errors import ConfigError, UsageError
from dimo_core.hookspecs import KINDS
from dimo_core.options import Path
from dimo_core.registry import Registry

FLAGS = ("help", "print_config", "print_schema", "dry_run")
"""Options of the commands that take no value."""

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
        draft: Makes its job.
        short: Short forms that it has.
        takes: What else of ``GENERAL`` it has.
        more: Adds what else its help shows, to the parser and to the general options.
    """

    prog: str
    about: str
    draft: type[Draft]
    short: Mapping[str, Path] = attrs.field(factory=dict)
    takes: Sequence[str] = ()
    more: Callable[[argparse.ArgumentParser, argparse._ArgumentGroup, Draft], None] | None = None

    def job(self, given: Arguments, registry: Registry) -> Any:
        """The job that a command line asks for; None where it asks for a text, which is printed.

        Raises:
            DimoError: for all mistakes at once.
        """
        if "dry_run" in given.flags and "dry-run" not in self.takes:
            raise UsageError("--dry-run is an option of `dimo run` only")
        if given.resume and "resume" not in self.takes:
            raise UsageError("--resume is an option of `dimo run` and `dimo pretrain` only")
        explicit = [*map(from_file, given.config), given.layer]
        if given.resume and not given.flags & {"help", "print_schema"}:
            job = resumed(self.draft, given.resume, explicit, registry)
        else:
            layers = [from_environment(os.environ, self.draft.keys), *explicit]
            draft = self.draft(layers=layers, registry=registry, short=[*self.short])
            if given.flags & {"help", "print_schema"}:
                from dimo_core.cli.help import help_text, schema_of

                shown = (
                    help_text(self, draft)
                    if "help" in given.flags
                    else json.dumps(schema_of(draft), indent=1)
                )
                print(shown.rstrip("\n"))
                return None
            job = draft.job()
        if "print_config" in given.flags:
            sys.stdout.write(yaml.safe_dump(job.config, sort_keys=False, allow_unicode=True))
            return None
        return job


def run(argv: Sequence[str]) -> int:
    """``dimo run``: distil a teacher into a one-step generator."""
    from dimo_core.config.distil import DistilDraft

    command = Command(
        prog="dimo run",
        about="Distil a teacher into a one-step generator. Options follow the chosen plugins: name another "
        "teacher or divergence, and --help shows its options.",
        draft=DistilDraft,
        short=SHORT,
        takes=("preset", "resume", "dry-run"),
    )
    given, registry = read(argv, SHORT), Registry.discover()
    if given.resume and "dry_run" in given.flags and "help" not in given.flags:
        raise UsageError("--dry-run starts nothing and --resume continues a run: give one of them")
    if (job := command.job(given, registry)) is None:
        return 0

    from dimo_core.jobs.distil import run
    from dimo_core.jobs.dry_run import dry_run

    if "dry_run" in given.flags:
        dry_run(job)
    else:
        run(job, registry=registry, resume=bool(given.resume))
    return 0


def pretrain(argv: Sequence[str]) -> int:
    """``dimo pretrain``: train a masked diffusion teacher from images."""
    from dimo_core.config.pretrain import PretrainDraft
    from dimo_core.jobs.pretrain import pretrain

    command = Command(
        prog="dimo pretrain",
        about="Train a masked diffusion teacher from images, with a tokenizer fitted to them. The result is "
        "a folder that --teacher.checkpoint of `dimo run` takes.",
        draft=PretrainDraft,
        short={name: path for name, path in SHORT.items() if path[0] == "train"},
        takes=("resume",),
    )
    given, registry = read(argv, command.short), Registry.discover()
    if (job := command.job(given, registry)) is not None:
        pretrain(job, registry=registry, resume=bool(given.resume))
    return 0


def convert(argv: Sequence[str]) -> int:
    """``dimo convert``: foreign weights into a folder of safetensors and YAML."""
    from dimo_core.jobs.convert import ConvertDraft, convert

    command = Command(
        prog="dimo convert",
        about="Turn foreign weights into a folder of safetensors and YAML: those that the teacher's options "
        "name, or, with --generator.init FILE, those of a published one-step generator of that teacher. "
        "Files are read without executing anything in them, and must fit exactly.",
        draft=ConvertDraft,
    )
    if (job := command.job(read(argv, command.short), Registry.discover())) is not None:
        convert(job)
    return 0
