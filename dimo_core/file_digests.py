"""SHA-256 of large files, computed once and remembered for as long as a file stays as it is.

What is remembered lies in ``<cache>/digests``, by path, with device, inode, size, and the times of the last
change of content and of inode. The operating system moves the last of these with every write, and nobody can
set it back, so other content is noticed also where size and time of change were kept. A file that changed a
moment ago is hashed again next time: another write might bear the same time.
"""

import hashlib
import json
import os
import time
import uuid
from pathlib import Path

from loguru import logger

from dimo_core.cache import cache_folder, file_sha256

SETTLED = 2.0
"""A file is remembered when its last change is at least so many seconds ago."""


def remembered_sha256(path: Path) -> str:
    """The SHA-256 of a file of this machine, in hex.

    Args:
        path: The file.
    """
    path = path.resolve()
    place, facts = _place(path), _facts(path)
    if (kept := _kept(place)) is not None and kept.get("facts") == facts:
        return str(kept["sha256"])
    digest = file_sha256(path)
    if facts == _facts(path) and time.time() - max(facts[-2:]) / 1e9 >= SETTLED:
        _keep(place, {"path": str(path), "facts": facts, "sha256": digest})
    return digest


def _place(path: Path) -> Path:
    return cache_folder() / "digests" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"


def _facts(path: Path) -> list[int]:
    """Device, inode, size, and times of change of content and of inode."""
    s = path.stat()
    return [s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns]


def _kept(place: Path) -> dict[str, object] | None:
    try:
        data = json.loads(place.read_bytes())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) and isinstance(data.get("sha256"), str) else None


def _keep(place: Path, data: dict[str, object]) -> None:
    """Write whole or not at all; a cache that cannot be written does no harm."""
    part = place.with_suffix(f".{uuid.uuid4().hex[:8]}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(data))
        os.replace(part, place)
    except OSError as error:
        logger.debug("the digest of {} is not kept: {}", data["path"], error)
