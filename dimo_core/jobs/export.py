"""``dimo export``: a trained generator in a form that others can use without what it was trained with."""

from typing import Any

from loguru import logger

from dimo_core.errors import UsageError
from dimo_core.files.folder import Folder
from dimo_core.files.generator_folder import generator_folder, load_generator, read_card, save_generator
from dimo_core.files.owner import owned
from dimo_core.files.weights import check_finite
from dimo_core.registry import Registry


def export_merged(path: str, out: str, *, registry: Registry | None = None) -> Folder:
    """Write a generator whose weights are partly its teacher's as one that holds all of them.

    The new one draws the same up to rounding, at the speed of a generator without adapters. It still names
    its teacher, which decodes what it draws.

    Args:
        path: A generator folder, or a run folder with one.
        out: Folder to write, a path or fsspec URL.
        registry: The plugins; discovered when None.

    Raises:
        UsageError: when its weights are whole already, the folder is not empty, or another process writes
            to it.
        CheckpointError: when ``path`` holds no whole generator, or its teacher is another one.
        NumericalError: when the weights hold NaN or infinity.
    """
    source = generator_folder(path)
    with owned(out) as folder:
        if folder.names():
            raise UsageError(
                f"{folder.url!r} is not empty, and nothing is overwritten. Choose another --out."
            )
        teacher, generator = load_generator(source.url, registry=registry)
        name, whole = generator.merged(teacher)
        check_finite(source.url, whole.backbone.state_dict())
        card = read_card(source)
        kept: dict[str, Any] = {key: card[key] for key in ("step", "seed") if key in card}
        merged_from = {"name": card["generator"]["name"], "sha256": card["sha256"]}
        config = {**card, "generator": {"name": name}}
        save_generator(folder, whole, teacher, config, {**kept, "merged_from": merged_from})
        logger.info("generator written: `dimo sample {}` draws from it", folder.url)
        return folder
