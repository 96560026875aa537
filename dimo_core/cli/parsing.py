"""argparse as the other commands use it: wrong usage is one line."""

import argparse
from typing import NoReturn

from dimo_core.errors import UsageError

LOG_LEVEL = "trace | debug | info | warning | error (default: info)"


class Parser(argparse.ArgumentParser):
    """A parser without abbreviations, whose errors are ``UsageError``."""

    def __init__(self, prog: str, description: str, epilog: str = "", *, add_help: bool = True) -> None:
        """Name the command and what it does."""
        super().__init__(
            prog=prog, description=description, epilog=epilog, allow_abbrev=False, add_help=add_help
        )
        # For the help: dispatch has taken it out of the arguments.
        self.add_argument("--log-level", metavar="LEVEL", help=LOG_LEVEL)

    def error(self, message: str) -> NoReturn:
        """Wrong usage.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{message}. `{self.prog} --help` lists the options.")


def positive(text: str) -> int:
    """An integer from 1 up.

    Raises:
        ValueError: for anything else.
    """
    if (number := int(text)) < 1:
        raise ValueError
    return number
