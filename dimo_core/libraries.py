"""What is installed, and libraries that look for torchvision, also where it does not load.

diffusers imports torchvision and transformers, and transformers imports torchvision, wherever their packages
are found, although what is used of them here needs none of it. A torchvision that was built for another
torch ends its import in a RuntimeError, an OSError or, at the second try, an AttributeError, and would take
them with it; so where it does not load, it is hidden while they are imported. What they find then, they
remember.
"""

import importlib
import importlib.util
import sys
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from loguru import logger

FAILURES = (Exception,)
"""How an import ends when a library is missing, or does not fit another: no kind of error is foreseeable."""


def installed(name: str) -> str | None:
    """The version of an installed distribution; None when it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def import_beside_torchvision(name: str) -> ModuleType:
    """The module ``name``, imported with a torchvision that does not load out of its sight.

    Raises:
        ImportError: when it, or what it needs, is not installed.
        Exception: of any other kind, when a library in it does not load (``FAILURES``).
    """
    if (loaded := sys.modules.get(name)) is not None:
        return loaded
    before, hidden = set(sys.modules), False
    if "torchvision" not in before and importlib.util.find_spec("torchvision") is not None:
        try:
            importlib.import_module("torchvision")
        except FAILURES as error:
            logger.debug("torchvision does not load and is hidden from other libraries: {}", error)
            hidden = True
            sys.modules["torchvision"] = None  # type: ignore[assignment]  # Python's mark: cannot be imported
    try:
        return importlib.import_module(name)
    finally:
        for found in set(sys.modules) - before if hidden else ():
            if found.partition(".")[0] == "torchvision":
                del sys.modules[found]
