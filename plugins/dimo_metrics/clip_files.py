"""The files of a published CLIP, from a folder, a URL or the Hugging Face cache: ``clip_files``."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import fsspec

from dimo_core.errors import CheckpointError
from dimo_core.files.cache import is_there, local_copy

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""The first that is there is read; the second as data, nothing in it is executed."""

TOKENIZER = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
PICTURES = "preprocessor_config.json"


def clip_files(model: str) -> Mapping[str, Path]:
    """The files that are there, by name, with configuration and weights among them.

    Args:
        model: A local folder, a URL of one (fetched into the cache of this machine), or a name on the Hugging
            Face Hub such as ``openai/clip-vit-base-patch32``, which is looked up in its cache only.

    Raises:
        CheckpointError: when configuration, weights or tokenizer are missing.
    """
    by_url = bool(fsspec.core.split_protocol(model)[0])
    is_folder = Path(model).expanduser().is_dir()
    names = (CONFIG, *WEIGHTS, *TOKENIZER, PICTURES)
    found: dict[str, Path] = {}
    for name in names:
        if name == WEIGHTS[1] and WEIGHTS[0] in found:
            continue
        if by_url or is_folder:
            url = f"{model.rstrip('/')}/{name}"
            path = local_copy(url) if is_there(url) else None
        else:
            path = _in_hub_cache(model, name)
        if path is not None:
            found[name] = path
    missing = [] if CONFIG in found else [CONFIG]
    missing += [] if set(WEIGHTS) & set(found) else [" or ".join(WEIGHTS)]
    missing += (
        [] if "tokenizer.json" in found or {"vocab.json", "merges.txt"} <= set(found) else ["vocab.json"]
    )
    if missing:
        place = "" if by_url or is_folder else " in the Hugging Face cache, and it is no folder here"
        raise CheckpointError(
            f"no CLIP {model!r}: {', '.join(missing)} is missing{place}. Nothing is downloaded unasked: set"
            " the option 'model' of metric 'clip-score' to a folder with the published files, or a URL such"
            " as hf://openai/clip-vit-base-patch32, or run `hf download openai/clip-vit-base-patch32` before."
        )
    return found


def _in_hub_cache(model: str, name: str) -> Path | None:
    """What an earlier download by Hugging Face's own tools left; no connection is made."""
    try:
        hub = import_module("huggingface_hub")
        path = hub.try_to_load_from_cache(model, name)
    except (ImportError, ValueError):  # not installed, or no name of a repository
        return None
    return Path(path) if isinstance(path, str) else None
