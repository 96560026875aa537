"""``load_vq_model``: the class ``VQModel`` of diffusers, also beside a torchvision that does not load.

diffusers imports torchvision and transformers (which imports torchvision) wherever their packages are
found, although ``VQModel`` uses neither. A torchvision that was built for another torch ends its import in
a RuntimeError or OSError and would take the tokenizer with it; so where it does not load, it is hidden
while diffusers is imported.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from loguru import logger

from dimo_core.errors import MissingLibraryError

_MODULE = "diffusers.models.autoencoders.vq_model"
_FAILURES = (ImportError, RuntimeError, OSError)


def load_vq_model() -> type[Any]:
    """The class ``diffusers.VQModel``.

    Raises:
        MissingLibraryError: if diffusers is not installed, or does not load.
    """
    try:
        module = sys.modules.get(_MODULE) or _import()
    except _FAILURES as error:
        raise MissingLibraryError(
            f"the VQGAN is built by diffusers, which does not load ({type(error).__name__}: {error}). "
            'Install it with libraries that fit each other: pip install --upgrade "dimo[vqgan]"'
        ) from error
    model: type[Any] = module.VQModel
    return model


def _import() -> Any:
    with _broken_torchvision_hidden():
        return importlib.import_module(_MODULE)


@contextmanager
def _broken_torchvision_hidden() -> Iterator[None]:
    """For imports that find torchvision absent if it does not load; a sound one is left alone."""
    before = set(sys.modules)
    if "torchvision" in before or importlib.util.find_spec("torchvision") is None:
        yield
        return
    try:
        importlib.import_module("torchvision")
    except _FAILURES as error:
        logger.debug("diffusers is used without torchvision, which does not load: {}", error)
    else:
        yield
        return
    sys.modules["torchvision"] = None  # type: ignore[assignment]  # Python's mark for: cannot be imported
    try:
        yield
    finally:
        for name in set(sys.modules) - before:
            if name.partition(".")[0] == "torchvision":
                del sys.modules[name]
