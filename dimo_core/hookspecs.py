"""The one hook a dimo plugin implements.

A plugin is a module named by an entry point in the group ``dimo``::

    # pyproject.toml
    [project.entry-points.dimo]
    foo = "dimo_foo.plugin"

    # dimo_foo/plugin.py
    from dimo_core.hookspecs import hookimpl

    @hookimpl
    def dimo_register(register):
        register("teacher", "foo", "dimo_foo.teacher:FooTeacher", summary="a teacher of foos")

The plugin module should import nothing heavy: the *target* is a string, and is imported only when
somebody chooses the name.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import pluggy

GROUP = "dimo"
"""The entry point group."""

PLUGIN_API = 2
"""The version of the interfaces that this dimo speaks."""

CHANGED: Mapping[str, int] = {"generator": 2}
"""The version in which a kind last changed so that what was written before fails; 1 for others."""

INTERFACES: Mapping[str, str] = {
    "teacher": "dimo_core.teacher:Teacher",
    "generator": "dimo_core.generator:GeneratorOptions",
    "auxiliary": "dimo_core.auxiliary:AuxiliaryOptions",
    "divergence": "dimo_core.divergence:Divergence",
    "guidance": "dimo_core.guidance:Guidance",
    "conditions": "dimo_core.sources:Conditions",
    "data": "dimo_core.sources:Data",
    "objective": "dimo_core.objective:ObjectiveOptions",
    "sampler": "dimo_core.sampler:Sampler",
    "features": "dimo_core.metric:FeatureExtractor",
    "metric": "dimo_core.metric:Metric",
    "tracker": "dimo_core.tracker:Tracker",
    "command": "dimo_core.command:Command",
}
"""The class that each kind of plugin derives from."""

KINDS = tuple(INTERFACES)
"""What can be plugged in; each kind is an interface of ``dimo_core``."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@runtime_checkable
class Register(Protocol):
    """The callable that ``dimo_register`` receives."""

    def __call__(
        self, kind: str, name: str, target: str, *, summary: str = "", extra: str = "", api: int = PLUGIN_API
    ) -> None:
        """Offer a plugin.

        Args:
            kind: One of ``KINDS``.
            name: What users type: lower case letters, digits and ``-``, ``_``, ``.``.
            target: ``"module:attribute"`` of the options class; imported on first use.
            summary: One line for ``dimo plugins``.
            extra: What to install when importing the target fails for a missing library, such as
                ``"dimo[meissonic]"``.
            api: The ``PLUGIN_API`` that the plugin was written for.
        """


@hookspec
def dimo_register(register: Register) -> None:
    """Call ``register`` once for each thing that the plugin offers."""
