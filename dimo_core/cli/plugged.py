"""``dimo NAME`` for the commands of plugins: their options, and what they return is printed."""

import argparse
from collections.abc import Sequence

import attrs

from dimo_core.cli.command import Parser, option
from dimo_core.cli.help import typed
from dimo_core.errors import ConfigError
from dimo_core.options import build, convert, options_of, type_name
from dimo_core.registry import Registry
from dimo_core.texts import shown


def main(name: str, argv: Sequence[str]) -> int:
    """Run the command ``name`` with the arguments that follow it."""
    registry = Registry.discover()
    offer, cls = registry.offer("command", name), registry.load("command", name)
    parser = Parser(f"dimo {name}", f"{offer.summary}. Of {offer.dist} {offer.version}.")
    options = {o.key: o for o in options_of(cls)}
    for key, o in options.items():
        kind = type_name(o.type)
        more = {"nargs": "+"} if "list of " in kind else {"nargs": "?"} if o.type is bool else {}
        default = "required" if o.default is attrs.NOTHING else f"default: {typed(o.default)}"
        text = f"{o.doc} ({kind}, {default})"
        option(parser, f"--{key}", o.path[-1].upper(), text, default=argparse.SUPPRESS, **more)
    given = vars(parser.parse_args(argv))
    texts = {o.path: _text(given[key]) for key, o in options.items() if key in given}
    values, wrong = convert(cls, texts, text=True)
    absent = [o.path for o in options.values() if o.default is attrs.NOTHING and o.path not in texts]
    if wrong := {path: "must be given" for path in absent} | wrong:
        raise ConfigError("\n".join(f"--{'.'.join(path)}: {why}" for path, why in wrong.items()))
    try:
        command = build(cls, {path[0]: value for path, value in values.items()})
    except ConfigError as error:  # about one option, or, beginning with a colon, about several
        raise ConfigError(str(error).removeprefix(": ") if str(error)[0] == ":" else f"--{error}") from error
    print("\n".join(map(shown, command.run().splitlines())))
    return 0


def _text(given: str | Sequence[str] | None) -> str | None:
    """An option as one text; several words, and one that is no list, are a list of them."""
    if given is None or isinstance(given, str):
        return given
    listed = len(given) == 1 and (given[0][:1] == "[" or given[0] == "null")
    return given[0] if listed else f"[{', '.join(given)}]"
