"""Who writes to a folder: one process at a time, by a record in it that others read.

A record is written under a name of its own, and only then its writer looks around: of processes that begin
together each sees the others, or is seen by them. Who sees another takes its record back before it looks once
more, so exactly one goes on. Nothing is locked: it holds wherever a listing shows what was written before it,
on local disks, on shared ones, and on object stores.
"""

import json
import os
import platform
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path

import attrs
from loguru import logger

from dimo_core.errors import Interrupted, StorageError, UsageError
from dimo_core.files.folder import OWNER, Folder, writing
from dimo_core.files.urls import local_path
from dimo_core.progress import interruptible

MACHINE = ("pid:[4026531836]", "uts:[4026531838]")
"""Namespaces of processes and of the host name outside of containers: Linux has fixed numbers for them."""


class Proposed(str):
    """A folder that nobody asked for by name, ``runs/NAME-1``: if it is taken, the next number will do."""

    __slots__ = ()


@attrs.frozen
class Owner:
    """A process that writes to a folder.

    Attributes:
        host: Its machine.
        machine: What tells that machine from others of its name, beyond a restart; empty where nobody does.
        boot: What its number holds for: a start of the machine, and a namespace of processes there.
        pid: Its number.
        born: When it was started, in ticks of that machine; empty where the platform does not tell.
        since: When it began to write.
        share: What it does together with others, and its part of that; empty for what is done alone.
        requeued: Number of its batch job, and how often that was started again; empty without one.
    """

    host: str
    machine: str
    boot: str
    pid: int = attrs.field(converter=int)
    born: str
    since: str
    share: list[str]
    requeued: list[str]

    @classmethod
    def here(cls, share: tuple[str, ...]) -> "Owner":
        """This process."""
        since, pid = datetime.now().astimezone().isoformat(" ", "seconds"), os.getpid()
        job = os.environ.get("SLURM_JOB_ID")
        requeued = [job, os.environ.get("SLURM_RESTART_COUNT", "0")] if job else []
        return cls(platform.node(), *_machine(), pid, _born(pid) or "", since, list(share), requeued)

    def hinders(self, me: "Owner") -> bool:
        """Whether ``me`` may not write beside it: only different parts of the same go together."""
        return not (self.share and me.share and self.share[0] == me.share[0] and self.share != me.share)

    def is_seen_by(self, me: "Owner") -> bool:
        """Whether both count processes alike, so that ``me`` can look it up by its number."""
        return (self.host, self.boot) == (me.host, me.boot)

    def has_ended(self, me: "Owner") -> bool:
        """Whether it is certain that it writes no more: it is gone, or its machine was started anew."""
        if self.requeued and self.requeued[:1] == me.requeued[:1] and self.requeued != me.requeued:
            return True
        if not self.is_seen_by(me):
            return bool(self.machine) and (self.host, self.machine) == (me.host, me.machine)
        born = _born(self.pid)
        return born is None or ("" not in (born, self.born) and born != self.born)

    def __str__(self) -> str:
        """``process 12 on host, since 2026-01-01 12:00:00+00:00``."""
        return f"process {self.pid} on {self.host}, since {self.since}"


def writer(folder: Folder) -> tuple[Owner, bool | None] | None:
    """Who writes to a folder, and whether it does: None where nobody can tell from here.

    Returns:
        None when nobody has said to write there, or whoever did has ended with a word.
    """
    me, found = Owner.here(()), list[tuple[Owner, bool | None]]()
    for name in folder.names(ending=OWNER):
        with suppress(FileNotFoundError, ValueError, TypeError):
            owner = Owner(**json.loads(folder.read(name)))
            found.append((owner, False if owner.has_ended(me) else True if owner.is_seen_by(me) else None))
    return max(found, key=lambda each: (each[1] is True, each[1] is None), default=None)


def _machine() -> tuple[str, str]:
    """``machine`` and ``boot`` of this process.

    Machines of one name differ in ``/etc/machine-id``. Containers share that, as it may be part of an image;
    one with a host name of its own is told by that and by the boot of the machine, the others by nothing.
    """
    boot, known = (_read(f"/{path}") for path in ("proc/sys/kernel/random/boot_id", "etc/machine-id"))
    try:
        spaces = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "uts")]
    except OSError:
        return known, boot
    if spaces[0] != MACHINE[0]:
        known = boot if spaces[1] != MACHINE[1] else ""
    return known, f"{boot} {spaces[0]}"


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _born(pid: int) -> str | None:
    """When a process of this machine was started; empty where nobody tells, None when there is none."""
    if os.name == "posix":
        try:
            os.kill(pid, 0)  # a question, no signal
        except ProcessLookupError:
            return None
        except PermissionError:
            pass  # it is there, and another user's
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return None if facts[0] in "ZX" else facts[19]


@contextmanager
def taken(url: str) -> Iterator[str]:
    """A folder within; what was made for it goes again at the end, if nothing was put into it.

    Args:
        url: A folder by name, which may be there or not, or a ``Proposed`` one: then the next that is free is
            made at once, and belongs to nobody else.

    Raises:
        StorageError: when the proposed folder cannot be made.
    """
    place = local_path(url)
    made = [] if place is None else [path for path in (place, *place.parents) if not os.path.lexists(path)]
    try:
        if isinstance(url, Proposed):
            url = _next_free(url)
            made = [Path(url), *made[1:]]
        yield str(url)
    finally:
        for path in made:
            with suppress(OSError, ValueError):
                path.rmdir()


def _next_free(url: str) -> str:
    stem, _, first = url.rpartition("-")
    with writing(url):
        for number in count(int(first)):
            with suppress(FileExistsError):
                os.makedirs(url := f"{stem}-{number}")
                return url
    raise AssertionError("numbers do not end")


@contextmanager
def owned(url: str, *share: str) -> Iterator[Folder]:
    """A folder within, to which no other process writes meanwhile; signals of a batch system act as Ctrl-C.

    Args:
        url: The folder, as ``taken`` takes it.
        share: What is done in it together with others, and which part of it; nothing for work alone.

    Yields:
        The folder, which refuses to be written to when it was removed meanwhile.

    Raises:
        UsageError: when another process owns it.
        StorageError: when it cannot be written, or was removed meanwhile.
    """
    with taken(url) as name, interruptible():
        folder, record = Folder(name), f"{uuid.uuid4().hex[:8]}{OWNER}"
        _enter(folder, record, Owner.here(share))
        guarded = attrs.evolve(folder, guard=str(local_path(folder.path(record)) or ""))
        try:
            yield guarded
            guarded.check()
        finally:
            with suppress(Exception):  # a store that is out of reach now has told so before
                folder.remove(record)


@contextmanager
def tentative(folder: Folder, *names: str) -> Iterator[None]:
    """Within, work begins; when it fails with nothing written but a few files, these go again.

    Then the corrected command may have the folder. What is interrupted keeps them, as it can go on.

    Args:
        folder: Where.
        names: What the work writes before it has done anything.
    """
    try:
        yield
    except Interrupted:
        raise
    except Exception:
        with suppress(Exception):  # what went wrong first is told
            folder.check()
            if not {*folder.strange_names()} - {*names}:
                for name in names:
                    folder.remove(name)
        raise


def _enter(folder: Folder, record: str, me: Owner) -> None:
    while True:
        _write(folder, record, me)
        if not _others(folder, record, me):
            return
        folder.remove(record)
        if others := _others(folder, record, me):
            raise UsageError(others[0])
        time.sleep(uuid.uuid4().int % 100 / 1000)  # others began at the same moment, and gave way as well


def _write(folder: Folder, record: str, me: Owner) -> None:
    for attempt in range(5):
        try:
            return folder.write(record, json.dumps(attrs.asdict(me)).encode(), durable=False)
        except StorageError as error:
            # A process that failed may take the folder away just when it was found there.
            if attempt == 4 or not isinstance(error.__cause__, FileNotFoundError):
                raise
    raise AssertionError("the last attempt returns or raises")


def _others(folder: Folder, record: str, me: Owner) -> list[str]:
    """Why ``me`` may not write to the folder, for each owner that hinders it; ended ones are removed."""
    found = []
    for name in folder.names(ending=OWNER):
        try:
            owner = Owner(**json.loads(folder.read(name)))
        except FileNotFoundError:
            continue
        except (ValueError, TypeError):
            text = f"{folder.path(name)!r} should tell who writes to this folder, and is damaged."
            found.append(f"{text} Remove it if nobody does.")
            continue
        if name == record or not owner.hinders(me):
            continue
        if owner.has_ended(me):
            logger.warning("{!r} is taken over from {}, which has ended without a word", folder.url, owner)
            folder.remove(name)
            continue
        text = f"{folder.url!r} is being written to by {owner}. Wait for its end, or choose another folder."
        gone = f" If it has ended already, remove {folder.path(name)!r}." if not owner.is_seen_by(me) else ""
        found.append(text + gone)
    return found
