"""Digests of large files, which are read for them once: ``remembered_sha256``."""

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

from loguru import logger

from dimo_core.errors import StorageError
from dimo_core.files.cache import cache_folder, file_sha256
from dimo_core.files.folder import Folder

SETTLED = 2.0
"""A file is remembered when its last change is at least so many seconds ago."""


def remembered_sha256(path: Path) -> str:
    """The SHA-256 of a file of this machine, in hex."""
    path = path.resolve()
    memory, name = Folder(cache_folder() / "digests"), hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
    facts = _facts(path)
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # nothing is remembered, or nonsense
        kept = json.loads(memory.read(f"{name}.json"))
        if kept["facts"] == facts:
            return str(kept["sha256"])
    digest = file_sha256(path)
    if facts == _facts(path) and time.time() - max(facts[-2:]) / 1e9 >= SETTLED:
        data = {"path": str(path), "facts": facts, "sha256": digest}
        try:
            memory.write(f"{name}.json", json.dumps(data).encode(), durable=False)
        except StorageError as error:  # a cache that cannot be written does no harm
            logger.debug("the digest of {} is not kept: {}", path, error)
    return digest


def _facts(path: Path) -> list[int]:
    """Device, inode, size, and times of change of content and of inode."""
    s = path.stat()
    return [s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns]
