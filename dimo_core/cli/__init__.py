"""``dimo``: finds the command, and turns errors into lines on stderr and an exit code.

Importing it imports no torch.
"""

import argparse
import os
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import dimo_core
from dimo_core.cli.streams import follows, standard_streams
from dimo_core.errors import DimoError, Interrupted, UsageError, nearest
from dimo_core.texts import masked, shown

COMMANDS: Mapping[str, tuple[str, str]] = {
    "run": ("command:run", "distil a teacher into a generator of one or a few steps"),
    "sample": ("sample:main", "draw samples from a trained generator, or from a teacher"),
    "evaluate": ("compare:evaluate", "judge a generator, a teacher, or pictures"),
    "compare": ("compare:compare", "the paper's table: samplers of a teacher, and generators"),
    "pretrain": ("command:pretrain", "train a masked diffusion teacher from images or texts"),
    "convert": ("command:convert", "turn foreign weights into a folder of safetensors and YAML"),
    "watch": ("watch:main", "show curves and newest samples of a run in the terminal"),
    "export": ("export:main", "write a trained generator in another form, for use without dimo"),
    "push": ("push:main", "push an export to the Hugging Face Hub, in one commit"),
    "demo": ("demo:main", "serve a local page that draws from a generator, beside its teacher"),
    "config": ("config_file:main", "check a configuration file, and tell where each value comes from"),
    "plugins": ("installed:plugins", "list what is installed, from which package, and what failed"),
    "completion": ("completion:main", "print the script that lets a shell complete commands and options"),
    "doctor": (
        "installed:doctor",
        "show versions and devices, and which libraries of an extra are missing",
    ),
}
"""Commands: ``module:function`` in this package, which takes the arguments, and one line about each."""

ALONE = ("convert", "export", "push", "demo", "compare --merge")
"""Commands that work in one process."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Arguments after ``dimo``; those of the process when None.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments and arguments[0] in COMMANDS else ""
    prog = f"dimo {name}".rstrip()
    with standard_streams(mute=follows()) as stdout:
        code = _main(name, prog, arguments)
        stdout.flush()
        if stdout.lost is None:
            return code
        if not isinstance(stdout.lost, BrokenPipeError):  # whoever read our output has gone, and knows
            print(f"{prog}: error: cannot write to stdout: {stdout.lost.strerror}", file=sys.stderr)
        return code or 1


def start(target: str, *arguments: Any) -> int:
    """Call ``module:function`` of this package, which is imported now, and return its exit code."""
    module, _, function = target.partition(":")
    return int(getattr(import_module(f"dimo_core.cli.{module}"), function)(*arguments))


def _main(name: str, prog: str, arguments: Sequence[str]) -> int:
    whole = os.environ.get("DIMO_TRACEBACK", "") not in ("", "0")
    try:
        if not name and arguments and arguments[0] in _plugged():
            prog = f"dimo {arguments[0]}"
            return start("plugged:main", arguments[0], arguments[1:])
        if not name:
            return _top(arguments)
        _refuse_ranks(name, arguments)
        return start(COMMANDS[name][0], arguments[1:])
    except SystemExit as stop:  # argparse leaves this way after --help and wrong usage
        return stop.code if isinstance(stop.code, int) else 0
    except DimoError as error:
        if whole:
            print(_trace(error), end="", file=sys.stderr)
        for line in (str(error) or type(error).__name__).split("\n"):
            if not (getattr(error, "followed", False) or (isinstance(error, Interrupted) and follows())):
                # Otherwise the process that failed, or the first of those that were stopped, has said so.
                print(f"{prog}: error: {shown(line)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        if not follows():
            print(f"{prog}: interrupted", file=sys.stderr)
        return Interrupted.exit_code
    except Exception as error:
        if getattr(error, "followed", False):
            return 1
        if not whole:
            return _unexpected(prog, error)
        print(_trace(error), end="", file=sys.stderr)
        return 1


def _plugged() -> dict[str, str]:
    """Commands that plugins offer, with one line about each; those of `dimo` itself cannot be replaced."""
    from dimo_core.registry import Registry

    offers = Registry.discover().offers("command")
    return {offer.name: offer.summary for offer in offers if offer.name not in COMMANDS}


def _refuse_ranks(name: str, arguments: Sequence[str]) -> None:
    """Refuse to be one of several processes of one job, each of which would do all of it."""
    size = os.environ.get("WORLD_SIZE", "")
    name = f"{name} --merge" if "--merge" in arguments and name == "compare" else name
    if name in ALONE and size.isdecimal() and int(size) > 1 and not {"-h", "--help"} & {*arguments}:
        raise UsageError(
            f"WORLD_SIZE is {size}: a launcher such as torchrun started {size} processes of this command, "
            f"which works in one process. Start `dimo {name}` without the launcher, or unset WORLD_SIZE."
        )


def _top(arguments: Sequence[str]) -> int:
    """``dimo`` itself: ``--help``, ``--version``, or a command that does not exist."""
    about = {name: text for name, (_, text) in COMMANDS.items()} | _plugged()
    lines = "\n".join(
        textwrap.fill(text, 79, initial_indent=f"  {name:<11} ", subsequent_indent=" " * 14)
        for name, text in about.items()
    )
    parser = argparse.ArgumentParser(
        prog="dimo",
        usage="dimo COMMAND [OPTIONS]",
        description="Generators of one or a few steps from masked diffusion models\n"
        "(Di[M]O, arXiv 2503.15457).",
        epilog=f"commands:\n{lines}\n\n`dimo COMMAND --help` lists the options of a command. First steps:\n\n"
        "  dimo run --teacher maskgit --divergence jeffrey --beta 0.2\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"dimo {dimo_core.__version__}")
    wanted = next((argument for argument in arguments if not argument.startswith("-")), None)
    if wanted is not None:
        known = f"Commands: {', '.join(about)}.{nearest(wanted, about)}"
        raise UsageError(f"unknown command {wanted!r}. {known}")
    parser.parse_args(arguments)
    parser.print_help()
    return 0


def _trace(error: Exception) -> str:
    """The traceback, without secrets; signs that no file can hold are written out."""
    return str(masked("".join(traceback.format_exception(error)))).encode(errors="backslashreplace").decode()


def _unexpected(prog: str, error: Exception) -> int:
    """A bug, of dimo or of a plugin: short on the screen, in full in a file."""
    with tempfile.NamedTemporaryFile("w", prefix="dimo-error-", suffix=".log", delete=False) as file:
        file.write(_trace(error))
    text = " ".join(f"{type(error).__name__}: {error}".split())
    print(f"{prog}: error: unexpected {shown(text)}{_whose(error)}", file=sys.stderr)
    print(f"{prog}: the traceback is in {file.name}; DIMO_TRACEBACK=1 prints it", file=sys.stderr)
    return 1


def _whose(error: Exception) -> str:
    """The innermost function of an installed plugin of others that an error came through."""
    from dimo_core.registry import OWN, Registry

    offers = [offer for offer in Registry.discover({}).offers() if offer.dist != OWN]
    owners = {offer.target.partition(":")[0].partition(".")[0]: offer for offer in offers}
    for frame, _ in reversed([*traceback.walk_tb(error.__traceback__)]):
        if (owner := owners.get(str(frame.f_globals.get("__name__")).partition(".")[0])) is not None:
            return f" (in {frame.f_code.co_qualname} of the plugin {owner.dist} {owner.version})"
    return ""
