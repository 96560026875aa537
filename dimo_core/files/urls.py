"""URLs of remote files: lists from patterns, patience with connections, and what a failure means."""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec
from braceexpand import braceexpand

from dimo_core import limits
from dimo_core.errors import MissingLibraryError, UsageError
from dimo_core.files.redirects import watched

SILENCE = 60.0
"""A connection over which nothing comes for so many seconds, or next to nothing, is given up."""

EXTRAS = {"s3": "s3", "s3a": "s3", "hf": "hub"}
"""Which extra of this project brings the library for a protocol."""

VERSIONS = (
    "ETag", "etag", "Last-Modified", "LastModified", "Content-MD5", "md5", "mtime", "md5Hash", "generation"
)  # fmt: skip
"""What file systems tell about a version of a file."""


def expanded(urls: str | Sequence[str], *, silence: float = SILENCE) -> list[str]:
    """The files that URLs stand for; nothing is opened.

    ``{000..127}`` and ``{a,b}`` are written out, then ``*``, ``?`` and ``[...]`` are looked up (of web
    addresses, where a question mark begins a query, only ``*``).

    Args:
        urls: Paths or fsspec URLs, one or several.
        silence: As in ``client_options``.

    Raises:
        UsageError: for a pattern that is wrong, that no file fits or that cannot be looked up, a file that is
            named twice, or a URL that would start a program.
        MissingLibraryError: when the library for a protocol is not installed.
    """
    found = [file for url in ([urls] if isinstance(urls, str) else urls) for file in _files(url, silence)]
    if not found:
        raise UsageError("no shards are given. Example: --data.url 'photos/train-{000..127}.tar'")
    if twice := [file for file, times in Counter(found).items() if times > 1]:
        raise UsageError(f"{twice[0]!r} and {len(twice) - 1} other shards are named twice. Name each once.")
    return found


def client_options(url: str, silence: float = SILENCE) -> dict[str, Any]:
    """What fsspec needs to give up a silent connection, and to read for as long as enough comes.

    Over http(s), enough is ``limits.TRICKLE`` bytes a second. Proxies of the environment are respected.
    Protocols other than http(s) and s3 follow their own libraries.

    Args:
        url: The URL that is opened with these options.
        silence: Seconds without a byte, or with too few, after which a connection has failed.
    """
    protocols = {part.partition("://")[0] for part in url.split("::") if "://" in part}
    options: dict[str, Any] = {
        protocol: {"config_kwargs": {"connect_timeout": silence, "read_timeout": silence}}
        for protocol in protocols & {"s3", "s3a"}
    }
    if web := protocols & {"http", "https"}:
        from aiohttp import ClientTimeout

        from dimo_core.files.trickles import patient

        timeout = ClientTimeout(total=None, sock_connect=min(30.0, silence), sock_read=silence)
        client = {"timeout": timeout, "trust_env": True, "trace_configs": [watched()]}
        client["response_class"] = patient(silence)
        options |= {protocol: {"client_kwargs": dict(client)} for protocol in web}
    return options


def check_regular(url: str) -> None:
    """Refuse what is on this machine and has no end, or never begins, such as a named pipe.

    Raises:
        PermissionError: then. What the shell hands over below ``/dev`` and ``/proc`` is read.
    """
    path = local_path(url)
    if path is None or path.is_file() or path.is_dir() or not path.exists():
        return
    if not str(path).startswith(("/dev/", "/proc/")):
        kind = "a named pipe" if path.is_fifo() else "a socket or device"
        raise PermissionError(
            f"{path} is no file, but {kind}: write what it gives into a file, and name that"
        )


def content(url: str, most: int) -> bytes:
    """All bytes of a file.

    Args:
        url: Path or fsspec URL.
        most: How many there may be; no more are read.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when it has more.
        Exception: of the file system.
    """
    check_regular(url)
    path = local_path(url)  # fsspec would seek in it, which no pipe can
    with path.open("rb") if path else fsspec.open(url, "rb", **client_options(url)) as file:
        parts = [b""]
        left = most + 1
        while left and (part := file.read(min(left, 2**24))):  # over http a read may give less
            parts.append(part)
            left -= len(part)
    if not left:
        raise ValueError(f"it has more than {most:,} bytes, which is the most that is read of it")
    return b"".join(parts)


def told_version(info: Mapping[str, Any]) -> dict[str, str]:
    """Tags and times of a file, of all that its file system says; empty when it tells none."""
    return {name: str(info[name]) for name in VERSIONS if info.get(name)}


def version_of(info: Mapping[str, Any]) -> str:
    """What tells a file from another of its name: its size, and its tags and times where there are some."""
    return " ".join([str(info.get("size")), *told_version(info).values()])


def state_of(url: str) -> str:
    """What ``version_of`` says of a file; empty where nobody can be asked, which reading it will tell."""
    try:
        filesystem, path = fsspec.core.url_to_fs(url, **client_options(url))
        return version_of(filesystem.info(path))
    except Exception:  # each file system raises its own
        return ""


def remedy(url: str) -> str:
    """How to install the library for a URL's protocol, where an extra of this project brings it."""
    extra = EXTRAS.get(fsspec.core.split_protocol(url)[0])
    return f" Run: pip install 'dimo[{extra}]'" if extra else ""


def local_path(url: str) -> Path | None:
    """Where on this machine a path or URL leads; None for one of another place."""
    protocol, path = fsspec.core.split_protocol(url)
    return Path(path).expanduser() if protocol in (None, "file", "local") and "::" not in url else None


def from_anywhere(url: str | os.PathLike[str] | None) -> str | None:
    """A path that leads to the same place from every working folder: a relative one is made absolute.

    The converter of options that name files, which configurations and cards keep. URLs stay as they are, and
    so does the key of ``FILE::KEY``.
    """
    if url is None or not (whole := os.fspath(url)) or "://" in whole:
        return None if url is None else os.fspath(url)
    path, *key = whole.split("::", 1)
    return "::".join([os.path.abspath(os.path.expanduser(path)), *key])


def cause_of(error: Exception) -> BaseException:
    """What went wrong; to fsspec, every failure over http is "not found", and its cause knows better."""
    cause = error.__cause__ if isinstance(error, FileNotFoundError) else None
    known = isinstance(cause, OSError | TimeoutError) or type(cause).__module__.startswith("aiohttp")
    return cause if cause is not None and known else error


def told(error: Exception) -> str:
    """What went wrong, for messages, whose full stops are their own: its kind and its text."""
    cause = cause_of(error)
    return f"{type(cause).__name__}: {cause}".rstrip(". ")


def is_missing(error: Exception) -> bool:
    """Whether there is no such file, so that asking again is of no use."""
    cause = cause_of(error)
    return isinstance(cause, FileNotFoundError) or getattr(cause, "status", None) in (404, 410)


def _files(url: str, silence: float) -> Iterator[str]:
    if _exists(url):  # whatever signs are in its name
        yield url
        return
    if (count := _written_out(url)) > limits.FILES:
        raise UsageError(f"{url!r} stands for {count:,} files; {limits.FILES:,} is the most.")
    try:
        names = list(braceexpand(url, escape=False)) if "{" in url else [url]
    except ValueError as error:
        raise UsageError(f"{url!r}: a brace is not closed.") from error
    for name in names:
        if re.search(r"(^|::)\s*pipe:", name, re.IGNORECASE):
            raise UsageError(
                f"{name!r} would run a shell command, which dimo never does. Give a path or a URL that fsspec"
                " can read, such as https://... or s3://..."
            )
        pattern = "*" in name or (local_path(name) is not None and any(sign in name for sign in "?["))
        pattern &= not _exists(name)
        if pattern and "::" in name:
            raise UsageError(f"{name!r}: wildcards do not work in chained URLs. Name the shards with braces.")
        try:
            fsspec.core.url_to_fs(name, **client_options(name))
        except ImportError as error:
            raise MissingLibraryError(f"{name!r} cannot be opened: {error}.{remedy(name)}") from error
        except ValueError as error:
            raise UsageError(f"{name!r} cannot be opened: {error}.") from error
        yield from _matches(name, silence) if pattern else [name]


def _written_out(url: str) -> int:
    """How many files braces stand for, at most."""
    count = 1
    for inner in re.findall(r"\{([^{}]*)", url) if "{" in url else ():
        ends = re.fullmatch(r"(-?\d{1,30}|.)\.\.(-?\d{1,30}|.)(\.\.-?\d+)?", inner)
        first, last = map(_end, ends.groups()[:2]) if ends else (0, 0)
        count *= abs(last - first) + 1 + inner.count(",")
    return count


def _end(text: str) -> int:
    return int(text) if text.lstrip("-").isdecimal() else ord(text)


def _exists(name: str) -> bool:
    path = local_path(name)
    return path is not None and path.exists()


def _matches(pattern: str, silence: float) -> list[str]:
    """The files that a pattern fits, sorted; folders that are there are no patterns, whatever their names."""
    filesystem, path = fsspec.core.url_to_fs(pattern, **client_options(pattern, silence))
    try:
        files = sorted(filesystem.glob(_escaped(path) if local_path(pattern) else path))
    except Exception as error:  # each file system raises its own
        raise UsageError(
            f"{pattern!r} cannot be looked up ({told(error)}). Check the address and your access rights, or"
            " name the files with braces."
        ) from error
    if not files:
        raise UsageError(f"no file fits {pattern!r}.")
    return files if local_path(pattern) else [filesystem.unstrip_protocol(file) for file in files]


def _escaped(path: str) -> str:
    """A local pattern that takes the folder above its first sign, as far as it is there, as it is written."""
    plain = Path(os.path.abspath(path))
    there = next(folder for folder in plain.parents if folder.exists())
    return f"{glob.escape(str(there))}/{plain.relative_to(there)}"
