"""Asking a command for its options in place of running it: what shell completion is made from."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar

_ASKING: ContextVar[bool] = ContextVar("asking for the options of a command", default=False)


class _Described(BaseException):
    """Leaves a command with its parser; no command handles it."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        """Take along the parser that the command would have shown."""
        super().__init__()
        self.parser = parser


class Describable(argparse.ArgumentParser):
    """A parser whose command can be asked for its options."""

    def format_help(self) -> str:
        """The help text; to whom asks for options, the parser itself, with those of the chosen plugins."""
        if _ASKING.get():
            raise _Described(self)
        return super().format_help()


def described(command: Callable[[Sequence[str]], object], words: Sequence[str]) -> Iterator[argparse.Action]:
    """The options and arguments that a command has after these words; none where they are wrong.

    Args:
        command: Takes the arguments after its name.
        words: Those that say which options there are: plugins, presets, configuration files.
    """
    token = _ASKING.set(True)
    try:
        command([*words, "--help"])
    except _Described as found:
        yield from (action for action in found.parser._actions if action.help != argparse.SUPPRESS)
    finally:
        _ASKING.reset(token)
