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

from typing import Protocol, runtime_checkable

import pluggy

GROUP = "dimo"
"""The entry point group."""

PLUGIN_API = 1
"""The version of the interfaces that this dimo speaks."""

KINDS = (
    "teacher",
    "generator",
    "auxiliary",
    "divergence",
    "guidance",
    "conditions",
    "data",
    "objective",
    "sampler",
    "features",
    "metric",
    "tracker",
)
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
