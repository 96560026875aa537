"""What weights of others lie in: names of files, ``FILE::key`` for a set in one, an index of shards."""

import json
import re

from dimo_core.errors import CheckpointError
from dimo_core.files.cache import local_copy

ENDINGS = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
"""Names of foreign weights files end so; an index of shards adds ``INDEX``."""

INDEX = ".index.json"

MOST = 2**26
"""Bytes of an index at most: that of a network of a million tensors."""


def split_key(url: str) -> tuple[str, str]:
    """A path or URL, and the key of a set of weights in it that ``FILE::key`` names; else an empty key.

    fsspec chains addresses by the same mark; what follows it there is an address, and no word.
    """
    file, _, key = url.rpartition("::")
    named = re.fullmatch(r"[A-Za-z_]\w*", key) and re.search(r"[./\\]", file)
    return (file, key) if named else (url, "")


def is_weights_file(url: str) -> bool:
    """Whether a path or URL names a foreign weights file or an index of some, and not a folder."""
    file = split_key(url)[0]
    plain = file.partition("?")[0] if "://" in file else file
    return plain.removesuffix(INDEX).endswith(ENDINGS)


def refuse_a_shard(url: str) -> None:
    """Refuse one of several shards, which is never all of the weights.

    Raises:
        CheckpointError: for a name such as ``model-00001-of-00002.safetensors``.
    """
    if found := re.search(r"-\d{5}-of-(\d{5})(\.\w+)(?=$|\?)", url):
        count, index = int(found[1]), f"{url[: found.start()]}{found[2]}{INDEX}"
        if count > 1:
            raise CheckpointError(
                f"{url} is one of {count} shards. Give their index, which names them all: {index}"
            )


def shards(url: str) -> dict[str, list[str]] | None:
    """The shards that an index names: paths or URLs beside it, and the names of tensors in each.

    Args:
        url: A path or URL of any file.

    Returns:
        None for a file that is no index.

    Raises:
        CheckpointError: for an index that names no tensors, or files that are not beside it.
    """
    path = local_copy(url)
    with path.open("rb") as file:
        head = file.read(32)
        try:
            # Safetensors begin with a size, which may look like a brace; theirs comes after it.
            like_json = head.lstrip().startswith(b"{") and head[8:9] != b"{" and path.stat().st_size <= MOST
            data = json.loads(head + file.read()) if like_json else None
        except (ValueError, RecursionError):
            return None
    if not isinstance(data, dict) or not isinstance(places := data.get("weight_map"), dict):
        return None
    plain, mark, query = url.partition("?") if "://" in url else (url, "", "")
    folder, slash, _ = plain.rpartition("/")
    found: dict[str, list[str]] = {}
    for name, file in places.items():
        if not isinstance(file, str) or not re.fullmatch(r"[\w-][\w.-]*", file) or len(file) > 255:
            raise CheckpointError(
                f"{url}: tensor {name[:200]!r} is said to be in {str(file)[:200]!r}, which names no file "
                "beside the index. Fetch the shards and their index again."
            )
        found.setdefault(f"{folder}{slash}{file}{mark}{query}", []).append(name)
    if not found:
        raise CheckpointError(f"{url} is an index of shards without any tensor. Fetch it again.")
    return found
