"""``Builder``: the jobs of one command, from layers or from a run folder, of which little may change."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from dimo_core.config.draft import Draft
from dimo_core.config.layers import Context, Layer, from_file, from_mapping
from dimo_core.errors import ConfigError
from dimo_core.files.folder import Folder
from dimo_core.registry import Registry


@attrs.frozen(kw_only=True)
class Builder:
    """How the jobs of one command are made.

    Attributes:
        keys: Top-level keys of the configuration.
        draft: Sections and values of layers, which come from the lowest to the highest precedence.
        job_of: The job of a draft; raises all mistakes of the draft at once.
    """

    keys: Sequence[str]
    draft: Callable[[Sequence[Layer], Context], Draft]
    job_of: Callable[[Draft], Any]

    def job(
        self, layers: Sequence[Layer], registry: Registry | None = None, *, suggestions: bool = True
    ) -> Any:
        """The job of some layers.

        Args:
            layers: From the lowest to the highest precedence.
            registry: The installed plugins; discovered when None.
            suggestions: Whether the teacher's presets and evaluation plan count.

        Raises:
            ConfigError: for wrong options, all of them in one message.
            UnknownNameError: for a plugin or preset that does not exist.
            PluginError: for a plugin that cannot be used.
        """
        context = Context(registry=registry or Registry.discover(), suggestions=suggestions)
        return self.job_of(self.draft(layers, context))

    def resolve(self, arguments: Mapping[str, Any], registry: Registry | None = None) -> Any:
        """The job of Python arguments: the shape of a config file, and plugins may be finished objects."""
        return self.job([from_mapping(arguments, "the arguments")], registry)

    def resumed(self, folder: str, layers: Sequence[Layer], registry: Registry) -> Any:
        """The job of a run folder.

        Args:
            folder: The run folder.
            layers: Options given besides; they may repeat what is stored, change ``device``, and raise
                ``train.steps``.
            registry: The installed plugins.

        Raises:
            ConfigError: when there is no run, or an option contradicts it.
        """
        if not Folder(folder).exists("config.yaml"):
            raise ConfigError(
                f"no run in {folder!r}: it has no config.yaml. --resume takes the folder of a run."
            )
        stored = from_file(Folder(folder).path("config.yaml"))
        before = self.job([stored], registry, suggestions=False)
        after = self.job([stored, *layers], registry, suggestions=False)
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
