"""Reading a command line whose options are not known yet: they belong to plugins that it names itself.

Every option is ``--name value`` or ``--name=value``, so no parser has to know them; what they mean, and
whether they exist, is checked against the chosen plugins together with config files.
"""

from collections.abc import Mapping, Sequence

import attrs

from dimo_core.config.layers import Layer, from_pairs
from dimo_core.errors import ConfigError, UsageError
from dimo_core.hookspecs import KINDS
from dimo_core.options import Path

FLAGS = ("help", "print_config", "dry_run")
"""Options of the commands that take no value."""

PLAIN = ("config", "resume")
"""Options of the commands that are not part of the configuration."""

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


def read(argv: Sequence[str], short: Mapping[str, Path] = SHORT) -> Arguments:
    """Take a command line apart.

    Args:
        argv: Arguments after the command.
        short: Short forms that the command has.

    Raises:
        UsageError: for what is no option, or lacks its value.
    """
    flags: set[str] = set()
    config: list[str] = []
    resume = ""
    pairs: list[tuple[Path, str | None, str]] = []
    rest = list(argv)
    while rest:
        token = rest.pop(0)
        if token == "-h":
            token = "--help"
        if not token.startswith("--") or token == "--":
            raise UsageError(f"unexpected argument {token!r}. Options are written --name value; see --help.")
        written, has_value, value = token.partition("=")
        name = written[2:].replace("-", "_")
        if name in FLAGS:
            if has_value:
                raise UsageError(f"{written} takes no value, got {value!r}")
            flags.add(name)
            continue
        given = value if has_value else rest.pop(0) if rest and _is_value(rest[0]) else None
        path = short.get(name) or tuple(name.split("."))
        if given is None and (name in (*KINDS, *PLAIN, "preset") or path[-1] == "name"):
            raise ConfigError(f"{written} needs a value")
        if name == "config":
            config.append(str(given))
        elif name == "resume":
            resume = str(given)
        else:
            pairs.append((path, given, written))
    layer = from_pairs(pairs, "the command line")
    return Arguments(flags=frozenset(flags), config=tuple(config), resume=resume, layer=layer)


def _is_value(token: str) -> bool:
    """Whether a token is the value of the option before it: negative numbers are, options are not."""
    return not token.startswith("--") and token != "-h"
