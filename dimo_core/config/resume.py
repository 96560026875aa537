"""Continuing what a run folder holds: its stored configuration, and the little that may change."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import attrs

from dimo_core.config.layers import Layer, from_file
from dimo_core.errors import ConfigError
from dimo_core.files.folder import Folder

J = TypeVar("J")


def resumed(folder: str, layers: Sequence[Layer], resolve: Callable[[Sequence[Layer]], J]) -> J:
    """The job of a run folder.

    Args:
        folder: The run folder.
        layers: Options given besides; they may repeat what is stored, change ``device``, and raise
            ``train.steps``.
        resolve: Makes the job from layers, without presets.

    Raises:
        ConfigError: when there is no run, or an option contradicts it.
    """
    if not Folder(folder).exists("config.yaml"):
        raise ConfigError(f"no run in {folder!r}: it has no config.yaml. --resume takes the folder of a run.")
    stored = from_file(Folder(folder).path("config.yaml"))
    before: Any = resolve([stored])
    after: Any = resolve([stored, *layers])
    check_unchanged(before.config, after.config, folder)
    job: J = attrs.evolve(after, out=folder, config={**after.config, "out": before.config["out"]})
    return job


def check_unchanged(before: Mapping[str, Any], after: Mapping[str, Any], folder: str) -> None:
    """Refuse to continue a run with other options.

    Args:
        before: The configuration that the run was started with.
        after: The one that it is to be continued with.
        folder: The run folder.

    Raises:
        ConfigError: for all differences but another device and more steps.
    """
    problems = [
        f"{key} is {old!r} in the run {folder!r}, got {new!r}. A resumed run keeps its options: only "
        "--device may change, and --steps may grow."
        for key, old, new in _differences(before, after)
        if key != "device"
        and not (key == "train.steps" and new > old)
        and not (key == "out" and str(new).rstrip("/") == folder.rstrip("/"))
    ]
    if problems:
        raise ConfigError("\n".join(problems))


def _differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Options whose values differ, with both values."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for inner in {**old, **new}:
            if old.get(inner) != new.get(inner):
                yield from _differences(old.get(inner), new.get(inner), f"{key}.{inner}".lstrip("."))
    else:
        yield key, old, new
