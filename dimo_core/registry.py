"""The registry: which plugins are installed, and their classes on request.

There is no global registry and no list of built-ins: ``Registry.discover()`` reads the entry points of the
group ``dimo``. Each is loaded on its own, so that a broken one costs nobody else anything, and what it offers
is imported only when somebody chooses it.
"""

import inspect
import re
import sys
from collections.abc import Mapping
from importlib import import_module
from operator import attrgetter
from typing import Any, Protocol, runtime_checkable

import attrs

from dimo_core.choice import Choice
from dimo_core.discovery import Broken, Findings, Offer, discover
from dimo_core.errors import DimoError, PluginError, UnknownNameError
from dimo_core.options import build

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
}
"""The class that each kind of plugin derives from."""


@attrs.frozen(kw_only=True)
class Registry:
    """The plugins of one process; make one with ``discover``.

    Attributes:
        findings: What was found: offers, broken and disabled entry points.
    """

    findings: Findings

    @classmethod
    def discover(cls, environ: Mapping[str, str] | None = None) -> "Registry":
        """Look at all entry points of the group ``dimo``.

        Args:
            environ: Read for ``DIMO_DISABLE_PLUGINS`` and ``DIMO_STRICT_PLUGINS``; ``os.environ`` when None.

        Raises:
            PluginError: for the first broken plugin, with ``DIMO_STRICT_PLUGINS=1`` only.
        """
        return cls(findings=discover(environ))

    @property
    def broken(self) -> tuple[Broken, ...]:
        """Entry points that could not be used, with the reason."""
        return self.findings.broken

    def offers(self, kind: str | None = None) -> tuple[Offer, ...]:
        """What is offered, of one kind or of all; ``dimo``'s own first, then by distribution."""
        return tuple(offer for offer in self.findings.offers if kind is None or offer.kind == kind)

    def names(self, kind: str) -> list[str]:
        """Sorted names of one kind."""
        return sorted({offer.name for offer in self.offers(kind)})

    def rivals(self, offer: Offer) -> tuple[Offer, ...]:
        """Other offers that claim the same name."""
        return tuple(
            other for other in self.offers(offer.kind) if other.name == offer.name and other != offer
        )

    def offer(self, kind: str, name: str) -> Offer:
        """The one offer of this name.

        Raises:
            UnknownNameError: if there is none.
            PluginError: if there are several.
        """
        claims = [offer for offer in self.offers(kind) if offer.name == name]
        if not claims:
            raise UnknownNameError(kind, name, self.names(kind), self._hint(kind))
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
            raise PluginError(_load_failure(offer, error)) from error
        _check_class(offer, found)
        assert isinstance(found, type)
        return found

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

    def _hint(self, kind: str) -> str:
        hint = f"(`dimo plugins {kind}` says where each comes from)"
        if self.broken:
            hint += f" Not loaded: {'; '.join(f'{b.origin}: {b.error}' for b in self.broken)}"
        return hint


def _resolve(target: str) -> object:
    module, _, path = target.partition(":")
    return attrgetter(path)(import_module(module))


def _load_failure(offer: Offer, error: Exception) -> str:
    text = f"{offer.kind} {offer.name!r} of {offer.origin} cannot be loaded: {type(error).__name__}: {error}."
    if not offer.extra:
        return f"{text} Reinstall or repair {offer.dist}."
    requirement = re.sub(r"^pip install\s+", "", offer.extra).strip("'\"")
    return f"{text} It needs: pip install '{requirement}'"


def _check_class(offer: Offer, found: object) -> None:
    """Refuse what is no concrete attrs class of the kind's interface."""
    interface = _resolve(INTERFACES[offer.kind])
    assert isinstance(interface, type)
    what = f"{offer.kind} {offer.name!r} of {offer.origin}"
    if not isinstance(found, type) or not issubclass(found, interface):
        raise PluginError(
            f"{what}: {offer.target} is no subclass of {interface.__module__}.{interface.__name__}."
        )
    if not attrs.has(found):
        raise PluginError(
            f"{what}: {offer.target} is no attrs class. Decorate it with @attrs.frozen(kw_only=True)."
        )
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise PluginError(f"{what}: {offer.target} does not define {missing}.")


@runtime_checkable
class Loader(Protocol):
    """What a judge needs of the registry."""

    def load(self, kind: str, name: str) -> Any:
        """The options class that is registered as ``name``."""


def built(registry: Loader, kind: str, choice: Choice) -> Any:
    """The plugin that ``choice`` names, with its options.

    Raises:
        UsageError: for an unknown name, or options that it refuses.
    """
    return build(registry.load(kind, choice.name), choice.options)
