"""diffusers and transformers, loaded late and also beside a torchvision that does not load."""

from types import ModuleType

from dimo_core.errors import MissingLibraryError
from dimo_core.libraries import FAILURES, import_beside_torchvision


def library(name: str) -> ModuleType:
    """A module of diffusers or transformers.

    Raises:
        MissingLibraryError: if it is not installed, or does not load.
    """
    try:
        return import_beside_torchvision(name)
    except FAILURES as error:
        package = name.partition(".")[0]
        raise MissingLibraryError(
            f"the teacher 'meissonic' is made of parts of {package}, which does not load "
            f"({type(error).__name__}: {error}). Install it with libraries that fit each other: "
            'pip install --upgrade "dimo[meissonic]"'
        ) from error
