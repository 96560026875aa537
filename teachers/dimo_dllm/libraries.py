"""transformers, loaded late and also beside a torchvision that does not load."""

from types import ModuleType

from dimo_core.errors import MissingLibraryError
from dimo_core.libraries import FAILURES, import_beside_torchvision


def library(name: str) -> ModuleType:
    """A module of transformers.

    Raises:
        MissingLibraryError: if it is not installed, or does not load.
    """
    try:
        return import_beside_torchvision(name)
    except FAILURES as error:
        raise MissingLibraryError(
            f"the teachers 'llada' and 'dream' are made of parts of transformers, which does not load "
            f"({type(error).__name__}: {error}). Install it with libraries that fit each other: "
            'pip install --upgrade "dimo[dllm]"'
        ) from error
