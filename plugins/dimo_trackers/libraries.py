"""Libraries of trackers, which need not be installed."""

import importlib
from types import ModuleType

from dimo_core.errors import MissingLibraryError
from dimo_core.libraries import FAILURES


def library(module: str, extra: str) -> ModuleType:
    """A module.

    Args:
        module: Its name.
        extra: The extra of dimo that brings it.

    Raises:
        MissingLibraryError: when it does not load.
    """
    try:
        return importlib.import_module(module)
    except FAILURES as error:
        raise MissingLibraryError(
            f"{module} does not load ({type(error).__name__}: {error}). Run: pip install 'dimo[{extra}]'"
        ) from error
