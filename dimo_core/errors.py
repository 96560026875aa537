"""What can go wrong, as a tree.

::

    DimoError                 exit code 1 unless said otherwise
    ├── UsageError            the caller asked for something impossible      exit code 2
    │   ├── ConfigError       a wrong option, value or config key
    │   └── UnknownNameError  no plugin of that name
    ├── PluginError           an installed plugin is broken, or two claim one name
    ├── MissingLibraryError   an optional library is missing or does not load
    ├── CheckpointError       a file that is missing, corrupt, foreign or half written
    ├── StorageError          a folder that cannot be looked up or written to
    ├── SourceError           data or conditions of a run that cannot be read any more
    ├── NumericalError        a loss or gradient that is not finite
    └── Interrupted           stopped by a signal, state saved               exit code 130

Every message says what is wrong, what was given, what is allowed, and what to do next.
"""

import difflib
import traceback
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from dimo_core.limits import MISTAKES


def nearest(
    name: str, known: Iterable[str], form: str = "{!r}", whole: Mapping[str, str] = MappingProxyType({})
) -> str:
    """ " Did you mean 'x'?" where one of the known names is near; nothing otherwise.

    Args:
        name: What was given.
        known: What people may have meant.
        form: How that is shown.
        whole: What is shown in place of some known names, which they stand for.
    """
    close = difflib.get_close_matches(name, [*known], n=1)
    return "".join(f" Did you mean {form.format(whole.get(match, match))}?" for match in close)


def message(error: Exception) -> str:
    """What an error says, without what attrs' validators keep behind their message."""
    return str(error.args[0]) if error.args else str(error)


def reason(error: Exception) -> str:
    """Why something was not done; of an error that is none of dimo's own, also its kind and its place."""
    if isinstance(error, DimoError):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" (raised by {p.name} in {p.filename}, line {p.lineno})" for p in place)
    return " ".join(f"{type(error).__name__}: {error}{where}".split())


class DimoError(Exception):
    """Base of every error that a user can cause or meet; a bug is an ``AssertionError`` instead."""

    exit_code = 1


class UsageError(DimoError):
    """The request itself is wrong; nothing was started."""

    exit_code = 2


class ConfigError(UsageError):
    """An option, a value or a key in a config file is wrong."""


class UnknownNameError(UsageError):
    """No plugin is registered under this name."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        known = sorted(known)
        text = f"unknown {kind} {name!r}. Known: {', '.join(known) or 'none'}.{nearest(name, known)}"
        super().__init__(f"{text} {hint}".rstrip())


def joined(errors: Sequence[DimoError]) -> DimoError:
    """A single error as it is; several different ones as one of several lines, the last of many counted."""
    texts = [*dict.fromkeys(map(str, errors))]  # one file may be given twice
    if len(texts) < 2:
        return errors[0]
    plugin = any(isinstance(error, PluginError) for error in errors)
    more = [f"and {len(texts) - MISTAKES:,} mistakes more"] if len(texts) > MISTAKES else []
    return (PluginError if plugin else ConfigError)("\n".join([*texts[:MISTAKES], *more]))


class PluginError(DimoError):
    """A plugin cannot be used: it fails to load, speaks another API, or its name is claimed twice."""


class MissingLibraryError(DimoError):
    """A library that one plugin needs is missing or does not load; the message says what to install."""


class CheckpointError(DimoError):
    """A checkpoint or model file cannot be used; nothing of it was executed."""


class SourceError(DimoError):
    """Data or conditions that could be read when the run was started cannot be read any more."""


class StorageError(DimoError):
    """A folder cannot be looked up or written to; the message names the path and the reason."""


class NumericalError(DimoError):
    """A loss or gradient is not finite."""


class Interrupted(DimoError):
    """A signal stopped the run; its state is saved and ``--resume`` continues it."""

    exit_code = 130
