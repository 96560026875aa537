"""Resumable state: safetensors files and, written last, a manifest that makes them a checkpoint.

A folder without a manifest is half written and never loaded; a manifest with a wrong checksum, or a file
whose SHA-256 differs from the manifest's, is damaged and never loaded; and nothing is ever unpickled.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from loguru import logger
from torch import Tensor

from dimo_core.engine.ranks import ALONE, Ranks
from dimo_core.errors import CheckpointError
from dimo_core.files.folder import Folder
from dimo_core.files.weights import read_tensors, write_tensors

FORMAT = "dimo-checkpoint/1"
MANIFEST = "manifest.json"

SHARDS = "shards"
"""Layout of what several processes wrote; else there is a file for each part of the state."""

Like = Mapping[str, Mapping[str, Tensor]]
State = tuple[dict[str, Any], dict[str, dict[str, Tensor]]]
NOTHING: Like = MappingProxyType({})


def save_checkpoint(
    folder: Folder,
    name: str,
    files: Mapping[str, Mapping[str, Tensor]],
    facts: Mapping[str, Any],
    ranks: Ranks = ALONE,
) -> None:
    """Write a checkpoint.

    Args:
        folder: The run's ``checkpoints`` folder.
        name: Name of the checkpoint, such as ``step_000500``.
        files: Tensors by file name, without extension.
        facts: What else the manifest holds: at least ``step``.
        ranks: The processes that write it together.
    """
    target = folder.sub(name)
    target.remove(MANIFEST)
    if ranks.size > 1:
        from dimo_core.engine.shards import write_shards

        ranks.led(lambda: folder.remove(name))
        digests = write_shards(target, files, ranks)
        target.write_json(MANIFEST, {"format": FORMAT, "layout": SHARDS, **facts, "sha256": digests})
        return
    named = {f"{file}.safetensors": tensors for file, tensors in files.items()}
    digests = {file: write_tensors(target, file, tensors) for file, tensors in named.items()}
    target.write_json(MANIFEST, {"format": FORMAT, **facts, "sha256": digests})


def read_manifest(folder: Folder) -> dict[str, Any]:
    """The manifest of a checkpoint.

    Raises:
        CheckpointError: when it is missing, damaged, or not of this format.
    """
    try:
        manifest = folder.read_json(MANIFEST)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(f"{folder.url} is no complete checkpoint: it has no {MANIFEST}") from error
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{folder.path(MANIFEST)} is not a checkpoint of the format {FORMAT!r}")
    return manifest


def load_checkpoint(folder: Folder, like: Like = NOTHING, ranks: Ranks = ALONE) -> State:
    """Manifest and tensors of a checkpoint, every file checked against its SHA-256.

    Args:
        folder: Where it is.
        like: What the tensors are wanted like, by file and name.
        ranks: The processes that read it together.

    Raises:
        CheckpointError: when anything is missing or damaged.
    """
    manifest = ranks.led(lambda: read_manifest(folder))
    if manifest.get("layout") == SHARDS:
        from dimo_core.engine.shards import read_shards

        return manifest, read_shards(folder, manifest["sha256"], like, ranks)

    def files() -> dict[str, dict[str, Tensor]]:
        digests = manifest["sha256"].items()
        return {name.removesuffix(".safetensors"): read_tensors(folder, name, x) for name, x in digests}

    return manifest, ranks.agreed(files)


def step_name(step: int) -> str:
    """``step_000500``."""
    return f"step_{step:06d}"


def complete_steps(folder: Folder) -> list[int]:
    """Steps of the complete checkpoints, ascending."""
    names = [name for name in folder.names() if name.startswith("step_") and name[5:].isdigit()]
    return sorted(int(name[5:]) for name in names if folder.exists(name, MANIFEST))


def load_newest(folder: Folder, like: Like = NOTHING, ranks: Ranks = ALONE) -> State | None:
    """The newest checkpoint that is whole; a damaged one is named and passed over.

    Args:
        folder: The run's ``checkpoints`` folder.
        like: As for ``load_checkpoint``.
        ranks: As for ``load_checkpoint``; one that fails is passed over by all.

    Returns:
        Manifest and tensors, or None when there is no checkpoint at all.

    Raises:
        CheckpointError: when there are checkpoints, and every one is damaged.
    """
    failures = []
    for step in reversed(ranks.led(lambda: complete_steps(folder))):
        place = folder.sub(step_name(step))
        try:
            found = load_checkpoint(place, like, ranks)
            if found[0]["step"] != step:
                raise CheckpointError(f"{folder.path(step_name(step))} holds step {found[0]['step']}")
            return found
        except CheckpointError as error:
            logger.warning("passing over a checkpoint: {}", error)
            failures.append(str(error))
    if failures:
        raise CheckpointError("no checkpoint can be used: " + "; ".join(failures))
    return None


def prune(folder: Folder, keep_last: int, newest: int) -> None:
    """Delete all complete checkpoints but ``keep_last`` up to step ``newest``; later ones are damaged."""
    steps = complete_steps(folder)
    for step in {*steps} - {*[step for step in steps if step <= newest][-keep_last:]}:
        folder.remove(step_name(step), MANIFEST)
        folder.remove(step_name(step))
