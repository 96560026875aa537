"""argparse as the other commands use it: wrong usage is one line."""

import argparse
from typing import Any, NoReturn

from dimo_core.errors import UsageError


class Parser(argparse.ArgumentParser):
    """A parser without abbreviations, whose errors are ``UsageError``."""

    def __init__(self, prog: str, description: str, epilog: str = "", **more: Any) -> None:
        """Name the command and what it does."""
        super().__init__(prog=prog, description=description, epilog=epilog, allow_abbrev=False, **more)
        log_level(self)

    def error(self, message: str) -> NoReturn:
        """Raise ``UsageError``."""
        raise UsageError(f"{message}. `{self.prog} --help` lists the options.")


def positive(text: str) -> int:
    """An integer from 1 up; ``ValueError`` for anything else."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def option(to: argparse._ActionsContainer, names: str, value: str, text: str, **more: Any) -> None:
    """Add an option.

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
    to.add_argument(*names.split(), help=text.replace("%", "%%"), **more)


def device(to: argparse._ActionsContainer) -> None:
    """Add ``--device``."""
    option(to, "--device", "DEVICE", "auto, or a torch device (default: auto)", default="auto")


def log_level(to: argparse._ActionsContainer) -> None:
    """Add ``--log-level`` to the help; the dispatcher has taken it out of the arguments."""
    option(to, "--log-level", "LEVEL", "trace | debug | info | warning | error (default: info)")
