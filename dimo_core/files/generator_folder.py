"""The generator folder: ``generator.safetensors`` and ``generator.yaml``, all that sampling needs.

The YAML names the plugins, their options and versions, and the SHA-256 of every frozen part, so that a
generator is never silently put beside another teacher than its own.
"""

import re
from collections.abc import Mapping
from shlex import quote
from typing import Any

import torch
from torch import Tensor, nn

from dimo_core.errors import CheckpointError, ConfigError, UsageError
from dimo_core.files.folder import CONFIG, Folder
from dimo_core.files.foreign import read_foreign
from dimo_core.files.state import card_of
from dimo_core.files.weight_files import is_weights_file, split_key
from dimo_core.files.weights import assign, read_tensors, write_tensors
from dimo_core.generator import Generator
from dimo_core.libraries import installed
from dimo_core.registry import Registry, built
from dimo_core.suggestions import Choice
from dimo_core.teacher import Teacher

FORMAT = "dimo-generator/1"
CARD, WEIGHTS = "generator.yaml", "generator.safetensors"

ENTRIES: Mapping[str, type] = {
    "teacher.name": str,
    "generator.name": str,
    "frozen": dict,
    f"sha256.{WEIGHTS}": str,
}
"""What the card must hold."""

MOVED = "If the teacher was moved, write its new place into the section 'teacher' of that file."


def save_generator(
    folder: Folder,
    generator: Generator,
    teacher: Teacher,
    config: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> None:
    """Write a generator folder; the YAML comes last and makes it complete.

    Args:
        folder: Where.
        generator: Holding the weights to save.
        teacher: For provenance.
        config: The run's resolved configuration; its sections ``teacher``, ``generator`` and, if there,
            ``conditions`` are kept.
        facts: What else to write down, such as the step and the run's seed.
    """
    options = {**config["generator"], **generator.sampling()}
    if "init" in options:
        options["init"] = None  # what it continued from does not matter to sampling
    digest = write_tensors(folder, WEIGHTS, generator.backbone.state_dict())
    folder.write_yaml(
        CARD,
        {
            "format": FORMAT,
            "teacher": config["teacher"],
            "generator": options,
            **{key: config[key] for key in ("conditions",) if key in config},
            "frozen": dict(teacher.provenance()),
            "sha256": {WEIGHTS: digest},
            "versions": versions(),
            **facts,
        },
    )


def read_card(folder: Folder) -> dict[str, Any]:
    """``generator.yaml``.

    Raises:
        CheckpointError: when the folder is no generator folder, or its card is damaged.
    """
    try:
        data = folder.read(CARD)
    except (FileNotFoundError, NotADirectoryError) as error:
        within = folder.exists("generator", CARD)
        hint = " Its generator is in the folder 'generator' within." if within else ""
        raise CheckpointError(f"no generator in {folder.url!r}: {CARD} is missing.{hint}") from error
    return card_of(data, folder.path(CARD), FORMAT, ENTRIES)


def load_generator(
    path: str,
    device: torch.device | str = "cpu",
    *,
    registry: Registry | None = None,
    temperature: float | None = None,
    steps: int | None = None,
    teacher: Teacher | None = None,
) -> tuple[Teacher, Generator]:
    """The teacher (for decoding) and the generator of a folder, in eval mode.

    Args:
        path: The folder, a path or fsspec URL.
        device: Where the generator goes.
        registry: The plugins; discovered when None.
        temperature: Divides the logits when sampling; None for the saved one.
        steps: Steps of a sample; None for as many as it is saved with.
        teacher: Used in place of the one that the folder names, so that it is in memory once.

    Raises:
        CheckpointError: when the folder is incomplete, damaged, or its teacher is not the one it was
            trained with.
        UnknownNameError: when a plugin that it names is not installed.
        UsageError: for a temperature that is not above 0, or where the generator has none; for steps that it
            cannot take.
    """
    if temperature is not None and not temperature > 0:
        raise UsageError(
            f"temperature must be above 0, got {temperature}. Small values take the likeliest code."
        )
    folder, registry = Folder(path), registry or Registry.discover()
    card = read_card(folder)
    if teacher is None:
        teacher = of_card(registry, "teacher", card["teacher"], folder)
    try:
        found = dict(teacher.provenance())
    except CheckpointError as error:
        raise CheckpointError(f"the teacher of {folder.path(CARD)}: {error}. {MOVED}") from error
    if wrong := strangers(card, found):
        raise CheckpointError(
            f"the teacher that {folder.path(CARD)} names is not the one this generator was trained with: the "
            f"SHA-256 of {', '.join(wrong)} is another. {MOVED}"
        )
    changed = {} if temperature is None else {"temperature": temperature}
    options = of_card(registry, "generator", {**card["generator"], **changed}, folder)
    module: Generator = (options if steps is None else options.with_steps(steps)).frame(teacher)
    if not changed.items() <= dict(module.sampling()).items():
        raise UsageError(f"the generator of {path!r} has no sampling temperature. Leave --temperature out.")
    assign(module.backbone, read_tensors(folder, WEIGHTS, card["sha256"][WEIGHTS]), folder.path(WEIGHTS))
    return teacher, module.to(device).eval().requires_grad_(False)


def strangers(card: Mapping[str, Any], provenance: Mapping[str, str]) -> list[str]:
    """Frozen parts that the card of a generator names and the provenance of a teacher does not have."""
    wanted = {name: x for name, x in card["frozen"].items() if re.fullmatch(r"[0-9a-f]{64}", str(x))}
    return [name for name, digest in wanted.items() if digest not in provenance.values()]


def check_finished(folder: Folder) -> None:
    """Refuse the folder of a run that has not finished, and so has nothing to sample from.

    Raises:
        CheckpointError: then, with what to do.
    """
    config = folder.read_yaml(CONFIG) if folder.exists(CONFIG) else None
    if not isinstance(config, dict) or "train" not in config:
        return
    command, what = ("pretrain", "teacher") if "model" in config else ("run", "generator")
    best = folder.sub("checkpoints", "best")
    instead = f", or take the best so far, {best.url}" if best.exists(CARD) else ""
    raise CheckpointError(
        f"no {what} in {folder.url!r} yet: this run has not finished. Continue it with `dimo {command} "
        f"--resume {quote(folder.url)}`{instead}."
    )


def generator_folder(path: str) -> Folder:
    """The folder with the generator: ``path`` itself, or ``generator`` within a run folder.

    Raises:
        UsageError: when there is none.
    """
    folder = Folder(path)
    if folder.exists(CARD):
        return folder
    if folder.exists("generator", CARD):
        return folder.sub("generator")
    check_finished(folder)
    raise UsageError(
        f"no generator in {path!r}: neither {CARD} nor generator/{CARD} is there. Give the folder of a "
        "generator, or of a run that has finished."
    )


def load_weights(path: str, backbone: nn.Module, teacher: Teacher, *, skeleton: bool = False) -> None:
    """Copy the weights of a generator into a backbone; of a skeleton only look whether they are there.

    Args:
        path: A generator folder, a foreign weights file (``FILE::key`` for a set in it), or a foreign folder
            that the teacher can read.
        backbone: Where they go.
        teacher: Whose network it is.
        skeleton: Whether the backbone has no weights.

    Raises:
        UsageError: when a skeleton's are not there.
        CheckpointError: when there are none, or they do not fit.
    """
    folder = Folder(split_key(path)[0])
    if skeleton:
        if not folder.exists():
            raise UsageError(f"no generator at {path!r}: there is no such file or folder")
        return
    tensors: Mapping[str, Tensor] | None = None
    file = folder.is_file() or is_weights_file(path)
    if file or not folder.exists(CARD):
        tensors = teacher.read_network(path)
    if tensors is None and file:
        tensors = read_foreign(path).state_dict()
    if tensors is None:
        path, digest = folder.path(WEIGHTS), read_card(folder)["sha256"][WEIGHTS]
        tensors = read_tensors(folder, WEIGHTS, digest)
    assign(backbone, tensors, path)


def of_card(registry: Registry, kind: str, section: Mapping[str, Any], folder: Folder) -> Any:
    """The options object of a section ``{name: ..., option: ...}`` of a card.

    Raises:
        CheckpointError: when the installed plugin does not take these options.
    """
    try:
        return built(registry, kind, Choice.from_dict(section))
    except ConfigError as error:
        raise CheckpointError(f"{folder.path(CARD)}, section {kind!r}: {error}") from error


def versions() -> dict[str, str]:
    """Versions of dimo and torch."""
    return {name: installed(name) or "unknown" for name in ("dimo", "torch")}
