"""The registry: which plugins are installed, and their classes on request.

There is no global registry and no list of built-ins: ``Registry.discover()`` reads the entry points of the
group ``dimo``. Each is loaded on its own, so that a broken one costs nobody else anything, and what it offers
is imported only when somebody chooses it.
"""

import inspect
import os
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from operator import attrgetter
from typing import Any

import attrs
import pluggy

import dimo_core.hookspecs
from dimo_core.errors import DimoError, PluginError, UnknownNameError, UsageError
from dimo_core.hookspecs import GROUP, INTERFACES, KINDS
from dimo_core.offers import Offer, Source
from dimo_core.options import build
from dimo_core.suggestions import Choice

OWN = "dimo"
"""The distribution that holds the core and the shipped plugins."""


@attrs.frozen(kw_only=True)
class Registry:
    """The plugins of one process; make one with ``discover``.

    Attributes:
        found: What working plugins offer.
        broken: Entry points that could not be used, with the reason.
        disabled: Entry points that ``DIMO_DISABLE_PLUGINS`` left out.
    """

    found: tuple[Offer, ...] = ()
    broken: tuple[Source, ...] = ()
    disabled: tuple[Source, ...] = ()

    @classmethod
    def discover(cls, environ: Mapping[str, str] | None = None) -> "Registry":
        """Load every entry point of the group ``dimo``, isolated from the others.

        Args:
            environ: ``DIMO_DISABLE_PLUGINS``: ``all`` leaves out every distribution but ``dimo``; else a
                comma separated list of entry point or distribution names. ``DIMO_STRICT_PLUGINS=1`` raises at
                the first broken plugin. ``os.environ`` when None.

        Raises:
            PluginError: in strict mode only.
        """
        environ = os.environ if environ is None else environ
        names = environ.get("DIMO_DISABLE_PLUGINS", "").split(",")
        hidden = {_normal(name) for name in names if name.strip()}
        found: list[Offer] = []
        broken: list[Source] = []
        disabled: list[Source] = []
        for point, source in _installed():
            if {_normal(point.name), source.dist} & hidden or ("all" in hidden and source.dist != OWN):
                disabled.append(source)
                continue
            try:
                found += _offers(point, source)
            except (Exception, SystemExit) as error:
                text = " ".join(f"{type(error).__name__}: {error}".split())
                if environ.get("DIMO_STRICT_PLUGINS", "") not in ("", "0"):
                    raise PluginError(f"plugin {source.origin}: {text}") from error
                broken.append(attrs.evolve(source, error=text))
        return cls(found=tuple(found), broken=tuple(broken), disabled=tuple(disabled))

    def offers(self, kind: str | None = None) -> tuple[Offer, ...]:
        """What is offered, of one kind or of all; ``dimo``'s own first, then by distribution."""
        return tuple(offer for offer in self.found if kind is None or offer.kind == kind)

    def versions(self, config: Mapping[str, Any]) -> dict[str, str]:
        """Distribution and version of each plugin that a resolved configuration names."""
        found = dict[str, str]()
        for kind in (key for key in config if key in KINDS):
            claims = [o for o in self.offers(kind) if o.name == config[kind].get("name")]
            found |= {f"{kind} {offer.name!r}": f"{offer.dist} {offer.version}" for offer in claims}
        return found

    def names(self, kind: str) -> list[str]:
        """Sorted names of one kind."""
        return sorted({offer.name for offer in self.offers(kind)})

    def offer(self, kind: str, name: str) -> Offer:
        """The one offer of this name.

        Raises:
            UnknownNameError: if there is none.
            PluginError: if there are several.
        """
        claims = [offer for offer in self.offers(kind) if offer.name == name]
        if not claims:
            hint = f"(`dimo plugins {kind}` says where each comes from)"
            if self.broken:
                hint += f" Not loaded: {'; '.join(f'{b.origin}: {b.error}' for b in self.broken)}"
            raise UnknownNameError(kind, name, self.names(kind), hint)
        if len(claims) > 1:
            raise PluginError(
                f"{kind} {name!r} is claimed by {' and by '.join(claim.origin for claim in claims)}. "
                f"Uninstall one of them, or hide it with DIMO_DISABLE_PLUGINS={claims[-1].dist}."
            )
        return claims[0]

    def load(self, kind: str, name: str) -> type:
        """Import the class that is registered under this name.

        Raises:
            UnknownNameError: if there is none.
            PluginError: if several distributions claim the name, the import fails, or the class is not what
                its kind asks for.
        """
        offer = self.offer(kind, name)
        try:
            found = _resolve(offer.target)
        except DimoError:
            raise
        except Exception as error:
            text = f"{kind} {name!r} of {offer.origin} cannot be loaded: {type(error).__name__}: {error}."
            needs = re.sub(r"^pip install\s+", "", offer.extra).strip("'\"")
            advice = f"It needs: pip install '{needs}'" if needs else f"Reinstall or repair {offer.dist}."
            raise PluginError(f"{text} {advice}") from error
        return _checked(offer, found)

    def name_of(self, kind: str, cls: type) -> str | None:
        """The name under which a class is registered; None when it is not.

        Nothing is imported for it: the module of a class that exists, or of its public alias, already is.
        """
        for offer in self.offers(kind):
            module, _, path = offer.target.partition(":")
            try:
                if attrgetter(path)(sys.modules[module]) is cls:
                    return offer.name
            except (KeyError, AttributeError):
                continue
        return None


def _installed() -> Iterator[tuple[EntryPoint, Source]]:
    """Entry points of the group: ``dimo``'s own first, then by distribution and name, none twice.

    The same distribution may be on the path twice (an editable install and its leftover); the first counts.
    """
    found: dict[tuple[bool, str, str], tuple[EntryPoint, Source]] = {}
    for point in entry_points(group=GROUP):
        dist = _normal((point.dist.name if point.dist else None) or "unknown")
        version = point.dist.version if point.dist else "?"
        source = Source(entry_point=point.name, dist=dist, version=version)
        found.setdefault((dist != OWN, dist, point.name), (point, source))
    return (found[key] for key in sorted(found))


def _offers(point: EntryPoint, source: Source) -> list[Offer]:
    """Call the hook of one plugin, and of no other, through pluggy.

    One manager for all would keep half a plugin when its hook is rejected, and know no hook's owner.
    """
    offers: list[Offer] = []

    def register(*args: Any, **more: Any) -> None:
        allowed = ("summary", "extra", "api")
        if len(args) + sum(key in more for key in ("kind", "name", "target")) != 3 or len(args) > 3:
            told = "register(kind, name, target, *, summary, extra, api) takes three texts, then keywords"
            raise PluginError(
                f"{told}; it was given {len(args)} texts and {', '.join(more) or 'no keywords'}"
            )
        if wrong := [key for key in more if key not in ("kind", "name", "target", *allowed)]:
            raise PluginError(f"register takes no {wrong[0]!r}. Keywords: {', '.join(allowed)}.")
        more |= dict(zip(("kind", "name", "target"), args, strict=False))
        add(**more)

    def add(kind: str, name: str, target: str, *, summary: str = "", **more: Any) -> None:
        what: dict[str, Any] = {"kind": kind, "name": name, "target": target, **more}
        offer = Offer(**attrs.asdict(source), **what, summary=" ".join(summary.split()))
        if offer not in offers:
            offers.append(offer)

    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(dimo_core.hookspecs)
    manager.register(point.load(), name=f"{source.dist}:{point.name}")
    manager.check_pending()
    if not (hooks := manager.hook.dimo_register.get_hookimpls()) or "register" not in hooks[0].argnames:
        what = "has no @hookimpl function" if not hooks else "registers nothing: it lacks the argument of"
        raise PluginError(f"{point.value} {what} dimo_register(register)")
    manager.hook.dimo_register(register=register)
    return offers


def _normal(name: str) -> str:
    """A distribution or entry point name as packaging tools compare them."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _resolve(target: str) -> object:
    module, _, path = target.partition(":")
    return attrgetter(path)(import_module(module))


def _interface(kind: str) -> type:
    interface = _resolve(INTERFACES[kind])
    assert isinstance(interface, type)
    return interface


def _checked(offer: Offer, found: object) -> type:
    """Refuse what is no concrete attrs class of the kind's interface."""
    interface = _interface(offer.kind)
    if not isinstance(found, type) or not issubclass(found, interface):
        wrong = f"is no subclass of {interface.__module__}.{interface.__name__}."
    elif not attrs.has(found):
        wrong = "is no attrs class. Decorate it with @attrs.frozen(kw_only=True)."
    elif inspect.isabstract(found):
        wrong = f"does not define {', '.join(sorted(found.__abstractmethods__))}."
    elif untyped := [field.name for field in attrs.fields(found) if field.init and field.type is None]:
        wrong = f"has an option {untyped[0]!r} without an annotation, so nothing can read it. Annotate it."
    elif not _is_frozen(found):
        wrong = "can be changed after it was checked. Decorate it with @attrs.frozen(kw_only=True)."
    else:
        return found
    raise PluginError(f"{offer.kind} {offer.name!r} of {offer.origin}: {offer.target} {wrong}")


def _is_frozen(cls: type) -> bool:
    instance: Any = object.__new__(cls)
    try:
        instance.anything = None
    except attrs.exceptions.FrozenInstanceError:
        return True
    except AttributeError:  # of a class with slots
        return False
    return False


def built(registry: Registry, kind: str, choice: Choice, whose: str = "") -> Any:
    """The plugin that ``choice`` names, with its options; ``whose`` tells what plugin suggested it, if any.

    Raises:
        UsageError: for an unknown name, an object of another kind, or options that it refuses; a
            ``PluginError`` of a suggestion.
    """
    try:
        if choice.plugin is not None:
            if isinstance(choice.plugin, _interface(kind)):
                return choice.plugin
            raise UsageError(f"{choice.plugin!r} is no {_interface(kind).__name__}")
        return build(registry.load(kind, choice.name), choice.options)
    except UsageError as error:
        if not whose:
            raise
        raise PluginError(f"{whose}: {error}") from error
