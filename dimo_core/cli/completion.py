"""``dimo completion``: shell completion of commands, options, plugins and their words.

The script of a shell hands what was typed after ``dimo`` to ``completion words`` at each key press, so what
it offers is what the installed plugins have. Options that belong to a plugin take as long as importing it.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.resources import files

from dimo_core.cli.command import SHOWN, Parser
from dimo_core.errors import DimoError
from dimo_core.hookspecs import KINDS
from dimo_core.registry import Registry
from dimo_core.texts import shown

SHELLS: Mapping[str, str] = {
    "bash": 'eval "$(dimo completion bash)"',
    "zsh": 'eval "$(dimo completion zsh)"',
    "fish": "dimo completion fish | source",
}
"""Shells, and the line of their start-up file."""

CHOOSING = (*KINDS, "preset", "config", "for")
"""Options whose values say which other options there are."""


class _Found(BaseException):
    """Leaves a command with the parser that its help would have shown; no command handles it."""


def main(argv: Sequence[str]) -> int:
    """Run the command; the arguments are those after ``dimo completion``."""
    lines = "; ".join(f"{shell}: {line}" for shell, line in SHELLS.items())
    parser = Parser(
        "dimo completion",
        "Print the script that lets a shell complete commands, options, plugins and presets.",
        f"Put into the start-up file of your shell: {lines}",
    )
    parser.add_argument("shell", metavar="SHELL", choices=[*SHELLS], help=" | ".join(SHELLS))
    if [*argv[:2]] == ["words", "--"]:  # what follows is not for this parser
        for word, about in candidates(argv[2:]):
            print(shown(word) + (f"\t{shown(about)}" if about else ""))
        return 0
    options = parser.parse_args(argv)
    print(
        (files("dimo_core.cli") / "completion_scripts" / f"dimo.{options.shell}").read_text(encoding="utf-8"),
        end="",
    )
    return 0


def candidates(typed: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What the last word may be, with a few words about it; nothing where a file may be meant.

    Args:
        typed: Words after ``dimo``; the last one is being typed, and may be empty.
    """
    *before, last = _joined(typed)
    registry = Registry.discover()
    commands = ((name, about) for name, (_, about) in _commands(registry).items())
    offered = _offered(registry, before, last) if before else commands
    yield from ((word, about) for word, about in offered if word.startswith(last))


def _offered(registry: Registry, before: Sequence[str], last: str) -> Iterator[tuple[str, str]]:
    """All that may stand after a command and ``before``, whatever ``last`` is so far."""
    if before[0] not in (commands := _commands(registry)):
        return
    option, has_value, _ = last.partition("=")
    named, written = (f"{option}=", option) if has_value else ("", before[-1])
    if written.removeprefix("--") in KINDS and written.startswith("--"):  # answered without importing one
        kind = written.removeprefix("--")
        offers = {offer.name: offer.summary for offer in registry.offers(kind)}
        yield from ((f"{named}{name}", offers[name]) for name in sorted(offers))
        return
    actions = _actions(commands[before[0]][0], before[1:])
    asked = option if has_value else _open(before, actions)
    for action in actions:
        if last.startswith("-") and asked is None:
            yield from ((name, _about(action)) for name in action.option_strings if name.startswith("--"))
        elif asked in action.option_strings or (asked is None and not action.option_strings):
            yield from ((f"{named}{word}", "") for word in action.choices or ())


def _joined(typed: Sequence[str]) -> list[str]:
    """The words; bash takes ``--name=value`` apart at its sign."""
    words: list[str] = []
    for word in typed:
        if words and (word == "=" or (words[-1][:2] == "--" and words[-1][-1] == "=")):
            words[-1] += word
        else:
            words.append(word)
    return words or [""]


def _commands(registry: Registry) -> Mapping[str, tuple[Callable[[Sequence[str]], object], str]]:
    """What runs each command, of ``dimo`` and of plugins, and one line about it."""
    from dimo_core.cli import COMMANDS, start  # which names this module

    offers = registry.offers("command")
    found = {offer.name: (partial(start, "plugged:main", offer.name), offer.summary) for offer in offers}
    return found | {name: (partial(start, target), about) for name, (target, about) in COMMANDS.items()}


def _actions(command: Callable[[Sequence[str]], object], words: Sequence[str]) -> list[argparse.Action]:
    """The options of a command for the plugins that its words choose, or of none where these are wrong."""
    chosen: list[str] = []
    for word, value in zip(words, [*words[1:], ""], strict=False):
        name, has_value, _ = word.removeprefix("--").partition("=")
        if word.startswith("--") and name.replace("-", "_") in CHOOSING:
            chosen += [word] if has_value else [word, value] if value[:2] not in ("", "--") else []
    for these in (chosen, []):
        with suppress(DimoError, SystemExit):
            return described(command, these)
    return []


def _open(before: Sequence[str], actions: Sequence[argparse.Action]) -> str | None:
    """The option that waits for its value, if any."""
    for action in actions:
        if before[-1] in action.option_strings and action.nargs != 0:
            return before[-1]
    return None


def _about(action: argparse.Action) -> str:
    """The beginning of an option's help, on one line."""
    text = " ".join((action.help or "").replace("%%", "%").split())
    first = text.partition(". ")[0]
    return first if len(first) <= 60 else f"{first[:59]}…"


def described(command: Callable[[Sequence[str]], object], words: Sequence[str]) -> list[argparse.Action]:
    """The options and arguments that a command has after these words, as its help would show them.

    Args:
        command: Takes the arguments after its name.
        words: Those that say which options there are: plugins, presets, configuration files.

    Raises:
        DimoError: when they are wrong.
    """

    def take(parser: argparse.ArgumentParser) -> str:
        raise _Found(parser)

    token = SHOWN.set(take)
    try:
        command([*words, "--help"])
    except _Found as found:
        return [action for action in found.args[0]._actions if action.help != argparse.SUPPRESS]
    finally:
        SHOWN.reset(token)
    return []
