"""What installed plugins offer, and where it comes from."""

import re

import attrs

from dimo_core.errors import PluginError
from dimo_core.hookspecs import CHANGED, KINDS, PLUGIN_API


@attrs.frozen(kw_only=True)
class Source:
    """Where something comes from.

    Attributes:
        entry_point: The entry point that it was registered through.
        dist: Its distribution.
        version: That distribution's version.
        error: Why it cannot be used, in one line; empty where nothing is wrong.
    """

    entry_point: str
    dist: str
    version: str
    error: str = ""

    @property
    def origin(self) -> str:
        """Distribution, version and entry point, as people read it."""
        return f"{self.dist} {self.version} (entry point {self.entry_point!r})"


@attrs.frozen(kw_only=True)
class Offer(Source):
    """One thing that an installed plugin offers.

    Attributes:
        kind: One of ``hookspecs.KINDS``.
        name: What users type.
        target: ``module:attribute`` of its options class.
        summary: One line about it.
        extra: What to install when the target cannot be imported; may be empty.
        api: The plugin API that it was written for.
    """

    kind: str
    name: str
    target: str
    summary: str = ""
    extra: str = ""
    api: int = PLUGIN_API

    def __attrs_post_init__(self) -> None:
        """Refuse what the registry could not use later.

        Raises:
            PluginError: for another plugin API, an unknown kind, or a bad name or target.
        """
        kind, name = self.kind, self.name
        oldest = CHANGED.get(kind, 1)
        if not oldest <= self.api <= PLUGIN_API:
            advice = "a newer version of the plugin" if self.api < oldest else "a newer dimo"
            speaks = f"{oldest} to {PLUGIN_API}" if oldest < PLUGIN_API else f"{PLUGIN_API}"
            text = f"{kind} {name!r} speaks plugin API {self.api}, this dimo speaks {speaks}"
            raise PluginError(f"{text}: install {advice}")
        if kind not in KINDS:
            raise PluginError(f"unknown kind {kind!r} of {name!r}. Kinds: {', '.join(KINDS)}")
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
            raise PluginError(f"bad name {name!r} of a {kind}: use lower case letters, digits and - _ .")
        if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", self.target):
            raise PluginError(f"bad target {self.target!r} of {kind} {name!r}: write 'module:attribute'")
