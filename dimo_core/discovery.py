"""Reading the entry points of the group ``dimo``, each on its own."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points

import attrs
import pluggy

from dimo_core import hookspecs
from dimo_core.errors import PluginError
from dimo_core.hookspecs import GROUP, KINDS, PLUGIN_API

OWN = "dimo"
"""The distribution that holds the core and the shipped plugins."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@attrs.frozen(kw_only=True)
class Offer:
    """One thing that an installed plugin offers.

    Attributes:
        kind: One of ``hookspecs.KINDS``.
        name: What users type.
        target: ``module:attribute`` of its options class.
        summary: One line about it.
        extra: What to install when the target cannot be imported; may be empty.
        api: The plugin API that it was written for.
        dist: The distribution that it comes from.
        version: That distribution's version.
        entry_point: The entry point that it was registered through.
    """

    kind: str
    name: str
    target: str
    summary: str = ""
    extra: str = ""
    api: int = PLUGIN_API
    dist: str
    version: str
    entry_point: str

    @property
    def origin(self) -> str:
        """Distribution, version and entry point, as people read it."""
        return f"{self.dist} {self.version} (entry point {self.entry_point!r})"


@attrs.frozen(kw_only=True)
class Broken:
    """An entry point that cannot be used.

    Attributes:
        entry_point: Its name.
        dist: Its distribution.
        version: That distribution's version.
        error: What went wrong, in one line.
    """

    entry_point: str
    dist: str
    version: str
    error: str

    @property
    def origin(self) -> str:
        """Distribution, version and entry point, as people read it."""
        return f"{self.dist} {self.version} (entry point {self.entry_point!r})"


@attrs.frozen(kw_only=True)
class Findings:
    """All that discovery found.

    Attributes:
        offers: What working plugins offer.
        broken: Entry points that failed.
        disabled: Entry points that ``DIMO_DISABLE_PLUGINS`` left out, as ``(distribution, entry point)``.
    """

    offers: tuple[Offer, ...] = ()
    broken: tuple[Broken, ...] = ()
    disabled: tuple[tuple[str, str], ...] = ()


def discover(environ: Mapping[str, str] | None = None) -> Findings:
    """Load every entry point of the group, isolated from the others.

    Args:
        environ: ``DIMO_DISABLE_PLUGINS``: ``all`` leaves out every distribution but ``dimo``; else a comma
            separated list of entry point or distribution names. ``DIMO_STRICT_PLUGINS=1`` raises at the
            first broken plugin. ``os.environ`` when None.

    Raises:
        PluginError: in strict mode only.
    """
    environ = os.environ if environ is None else environ
    hidden = {_normal(name) for name in environ.get("DIMO_DISABLE_PLUGINS", "").split(",") if name.strip()}
    strict = environ.get("DIMO_STRICT_PLUGINS", "") not in ("", "0")
    offers: list[Offer] = []
    broken: list[Broken] = []
    disabled: list[tuple[str, str]] = []
    for point, dist, version in _installed(tuple(entry_points(group=GROUP))):
        if _normal(point.name) in hidden or _normal(dist) in hidden or ("all" in hidden and dist != OWN):
            disabled.append((dist, point.name))
            continue
        try:
            offers += _register(point, dist, version)
        except (Exception, SystemExit) as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            bad = Broken(entry_point=point.name, dist=dist, version=version, error=text)
            if strict:
                raise PluginError(f"plugin {bad.origin}: {text}") from error
            broken.append(bad)
    return Findings(offers=tuple(offers), broken=tuple(broken), disabled=tuple(disabled))


def _installed(points: Sequence[EntryPoint]) -> Iterator[tuple[EntryPoint, str, str]]:
    """Entry points with distribution and version: ``dimo``'s own first, then by name, none twice.

    The same distribution may be on the path twice (an editable install and its leftover); the first counts.
    """
    found: dict[tuple[str, str], tuple[EntryPoint, str, str]] = {}
    for point in points:
        dist = _normal((point.dist.name if point.dist else None) or "unknown")
        version = point.dist.version if point.dist else "?"
        found.setdefault((dist, point.name), (point, dist, version))
    order = sorted(found, key=lambda key: (key[0] != OWN, *key))
    return (found[key] for key in order)


def _register(point: EntryPoint, dist: str, version: str) -> list[Offer]:
    """Call the hook of one plugin, and of no other, through pluggy.

    Each entry point has its own manager: one manager for all would keep half a plugin when its hook is
    rejected, and could not tell whose unknown hook it holds.
    """
    offers: list[Offer] = []

    def register(
        kind: str, name: str, target: str, *, summary: str = "", extra: str = "", api: int = PLUGIN_API
    ) -> None:
        _check_offer(kind, name, target, api)
        offer = Offer(
            kind=kind,
            name=name,
            target=target,
            summary=" ".join(summary.split()),
            extra=extra,
            api=api,
            dist=dist,
            version=version,
            entry_point=point.name,
        )
        if offer not in offers:
            offers.append(offer)

    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(point.load(), name=f"{dist}:{point.name}")
    manager.check_pending()
    if not manager.hook.dimo_register.get_hookimpls():
        raise PluginError(f"{point.value} has no @hookimpl function dimo_register(register)")
    manager.hook.dimo_register(register=register)
    return offers


def _check_offer(kind: str, name: str, target: str, api: int) -> None:
    """Refuse what the registry could not use later."""
    if api != PLUGIN_API:
        advice = "a newer version of the plugin" if api < PLUGIN_API else "a newer dimo"
        raise PluginError(
            f"{kind} {name!r} speaks plugin API {api}, this dimo speaks {PLUGIN_API}: install {advice}"
        )
    if kind not in KINDS:
        raise PluginError(f"unknown kind {kind!r} of {name!r}. Kinds: {', '.join(KINDS)}")
    if not _NAME.fullmatch(name):
        raise PluginError(f"bad name {name!r} of a {kind}: use lower case letters, digits and - _ .")
    if not _TARGET.fullmatch(target):
        raise PluginError(f"bad target {target!r} of {kind} {name!r}: write 'module:attribute'")


def _normal(name: str) -> str:
    """A distribution or entry point name as packaging tools compare them."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
