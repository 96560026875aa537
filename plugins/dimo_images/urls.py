"""Lists of files from URLs with braces and wildcards: ``expanded``."""

from collections.abc import Iterator, Sequence

import fsspec
from braceexpand import braceexpand

from dimo_core.errors import MissingLibraryError, UsageError


def expanded(urls: str | Sequence[str]) -> list[str]:
    """The files that URLs stand for; nothing is opened.

    ``{000..127}`` and ``{a,b}`` are written out, then ``*``, ``?`` and ``[...]`` are looked up (of web
    addresses, where a question mark begins a query, only ``*``).

    Args:
        urls: Paths or fsspec URLs, one or several.

    Raises:
        UsageError: for a pattern that is wrong or that no file fits, a file that is named twice, or a URL
            that would start a program.
        MissingLibraryError: when the library for a protocol is not installed.
    """
    found = [file for url in ([urls] if isinstance(urls, str) else urls) for file in _files(url)]
    if not found:
        raise UsageError("no shards are given. Example: --data.url 'photos/train-{000..127}.tar'")
    if twice := [file for file in dict.fromkeys(found) if found.count(file) > 1]:
        raise UsageError(f"{twice[0]!r} and {len(twice) - 1} other shards are named twice. Name each once.")
    return found


def _files(url: str) -> Iterator[str]:
    try:
        names = list(braceexpand(url, escape=False)) if "{" in url else [url]
    except ValueError as error:
        raise UsageError(f"{url!r}: a brace is not closed.") from error
    for name in names:
        if name.lstrip().lower().startswith("pipe:"):
            raise UsageError(
                f"{name!r} would run a shell command, which dimo never does. Give a path or a URL that fsspec"
                " can read, such as https://... or s3://..."
            )
        yield from _matches(name) if _is_pattern(name) else _known(name)


def _is_pattern(url: str) -> bool:
    return "*" in url or ("://" not in url.replace("file://", "") and any(sign in url for sign in "?["))


def _known(url: str) -> list[str]:
    """The URL itself, if there is something that can open it."""
    try:
        fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingLibraryError(f"{url!r} cannot be opened: {error}.") from error
    except ValueError as error:
        raise UsageError(f"{url!r} cannot be opened: {error}.") from error
    return [url]


def _matches(pattern: str) -> list[str]:
    """The files that a pattern fits, sorted."""
    if "::" in pattern:
        raise UsageError(f"{pattern!r}: wildcards do not work in chained URLs. Name the shards with braces.")
    _known(pattern)
    filesystem, path = fsspec.core.url_to_fs(pattern)
    local = "file" in ([filesystem.protocol] if isinstance(filesystem.protocol, str) else filesystem.protocol)
    files = sorted(filesystem.glob(path))
    if not files:
        raise UsageError(f"no file fits {pattern!r}.")
    return [file if local else filesystem.unstrip_protocol(file) for file in files]
