"""The folder of a job: the next free one, or that of a run which goes on, of which little may change."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from dimo_core.config.draft import Draft
from dimo_core.config.layers import Layer, from_file, from_mapping, last
from dimo_core.errors import ConfigError
from dimo_core.files.folder import CONFIG, Folder
from dimo_core.files.owner import Proposed
from dimo_core.options import changed
from dimo_core.registry import Registry
from dimo_core.texts import masked

AUTO = "auto"
"""With ``--resume``: the run in ``--out``, if there is one."""


def next_folder(*parts: str) -> Proposed:
    """The next free folder below ``runs``: ``runs/maskgit-jeffrey-1``, then ``-2``; nothing is made yet."""
    stem = "-".join(re.sub(r"[^\w.]+", "_", part.rpartition(":")[2]) for part in parts)
    found = (re.fullmatch(re.escape(stem) + r"-(\d+)", name) for name in Folder("runs").names())
    return Proposed(f"runs/{stem}-{max((int(match[1]) for match in found if match), default=0) + 1}")


def run_in(layers: Sequence[Layer]) -> str | None:
    """The folder of ``--out``, if there is a run in it.

    Args:
        layers: From the lowest to the highest precedence.

    Raises:
        ConfigError: when ``--out`` is not given.
    """
    if (out := last(layers, "out")) is None:
        raise ConfigError(
            f"--resume {AUTO} continues the run in --out, or starts it there: give --out FOLDER as well"
        )
    return str(out) if Folder(str(out)).exists(CONFIG) else None


def resumed(kind: type[Draft], folder: str, layers: Sequence[Layer], registry: Registry) -> Any:
    """The job of a run folder.

    Args:
        kind: Makes jobs of this kind.
        folder: The run folder.
        layers: Options given besides; they may repeat what is stored, change ``device``, and raise
            ``train.steps``. What was left out when it was stored, the passwords and signatures of URLs,
            must be among them.
        registry: The installed plugins.

    Raises:
        ConfigError: when there is no run, or an option contradicts it.
        CheckpointError: when the stored configuration is damaged.
    """
    if not Folder(folder).exists(CONFIG):
        raise ConfigError(f"no run in {folder!r}: it has no config.yaml. --resume takes the folder of a run.")
    stored = from_file(Folder(folder).path(CONFIG))
    place = from_mapping({"out": folder}, "--resume")
    Folder(folder).read_yaml(CONFIG)  # which looks at its checksum
    before, after = (
        kind(layers=given, registry=registry, suggestions=False, stored=len(given) == 1).job()
        for given in ([stored], [stored, place, *layers])
    )
    check_unchanged(before.config, after.config, folder)
    return attrs.evolve(after, out=folder, config={**after.config, "out": before.config["out"]})


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
        f"{key} is {_written(old)} in the run {folder!r}, got {_written(new)}. A resumed run keeps its "
        "options: only --device may change, and --steps may grow."
        for key, old, new in changed(before, after)
        if key != "device"
        and not (key == "train.steps" and new > old)
        and not (key == "out" and str(new).rstrip("/") == masked(folder).rstrip("/"))
    ]
    if problems:
        raise ConfigError("\n".join(problems))


def _written(value: Any) -> str:
    return "null" if value is None else repr(value)
