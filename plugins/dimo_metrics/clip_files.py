"""The files of a published CLIP, from a folder, a URL or the Hugging Face cache: ``clip_files``."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import fsspec

from dimo_core.errors import CheckpointError
from dimo_core.files.cache import file_sha256, is_there, local_copy
from dimo_core.files.weight_files import INDEX, shards

CONFIG = "config.json"
WEIGHTS = tuple(
    f"{name}{index}" for name in ("model.safetensors", "pytorch_model.bin") for index in ("", INDEX)
)
"""The first that is there is read: a file, or an index of shards. Nothing in them is executed."""

TOKENIZER = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
PICTURES = "preprocessor_config.json"


def clip_files(model: str) -> Mapping[str, str]:
    """The files that are there by name, as paths or URLs; configuration and weights are among them.

    Args:
        model: A local folder, a URL of one (fetched into the cache of this machine), or a name on the Hugging
            Face Hub such as ``openai/clip-vit-base-patch32``, which is looked up in its cache only.

    Raises:
        CheckpointError: when configuration, weights or tokenizer are missing.
    """
    in_folder = bool(fsspec.core.split_protocol(model)[0]) or Path(model).expanduser().is_dir()
    found: dict[str, str] = {}
    for name in (CONFIG, *WEIGHTS, *TOKENIZER, PICTURES):
        if name in WEIGHTS and set(WEIGHTS) & set(found):
            continue
        place = _in_folder(model, name) if in_folder else _in_hub_cache(model, name)
        if place is not None:
            found[name] = place
    missing = [] if CONFIG in found else [CONFIG]
    missing += [] if set(WEIGHTS) & set(found) else [" or ".join(WEIGHTS)]
    missing += (
        [] if "tokenizer.json" in found or {"vocab.json", "merges.txt"} <= set(found) else ["vocab.json"]
    )
    if missing:
        place = "" if in_folder else " in the Hugging Face cache, and it is no folder here"
        raise CheckpointError(
            f"no CLIP {model!r}: {', '.join(missing)} is missing{place}. Nothing is downloaded unasked: set"
            " the option 'model' of metric 'clip-score' to a folder with the published files, or a URL such"
            " as hf://openai/clip-vit-base-patch32, or run `hf download openai/clip-vit-base-patch32` before."
        )
    return found


def weights_of(files: Mapping[str, str]) -> str:
    """The weights among the files of a CLIP: a path or URL, of an index where they lie in shards."""
    return next(files[name] for name in WEIGHTS if name in files)


def digests_of(files: Mapping[str, str]) -> list[str]:
    """Name and SHA-256 of each file of a CLIP, and of the shards that an index names."""
    parts = shards(url) or {} if (url := weights_of(files)).endswith(INDEX) else {}
    every = {**files, **{part.rpartition("/")[2]: part for part in parts}}
    return [f"{name} {file_sha256(local_copy(place))}" for name, place in sorted(every.items())]


def _in_folder(folder: str, name: str) -> str | None:
    url = f"{folder.rstrip('/')}/{name}"
    return url if is_there(url) else None


def _in_hub_cache(model: str, name: str) -> str | None:
    """What an earlier download by Hugging Face's own tools left; no connection is made."""
    try:
        hub = import_module("huggingface_hub")
        path = hub.try_to_load_from_cache(model, name)
    except (ImportError, ValueError):  # not installed, or no name of a repository
        return None
    return path if isinstance(path, str) else None
