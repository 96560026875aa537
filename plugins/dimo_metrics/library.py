"""``load_torch_fidelity``: torch-fidelity, also where torchvision is missing or does not fit torch.

torch-fidelity imports torchvision at module level, but what is computed here (metrics of features that
are already extracted) uses none of it. A torchvision that is missing, or built for another torch (then
its import ends in an error of any kind), would take the metrics away for nothing; so if the plain
import fails, it is tried once more with empty modules in torchvision's place, which are removed again.
"""

import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType

from loguru import logger

from dimo_core.errors import MissingLibraryError
from dimo_core.libraries import FAILURES

_LOCK = threading.Lock()

_STAND_INS = {
    "torchvision": (),
    "torchvision.datasets": ("CIFAR10", "CIFAR100", "STL10"),
    "torchvision.models": (),
    "torchvision.transforms": (),
    "torchvision.transforms.functional": (),
}
"""Each module that torch-fidelity imports, with the classes that it subclasses there."""

_ADVICE = (
    "Install it with a torchvision that fits your torch: pip install --upgrade torch-fidelity torchvision"
)


def load_torch_fidelity() -> ModuleType:
    """The module ``torch_fidelity``.

    Raises:
        MissingLibraryError: if it is not installed, or does not load in either way.
    """
    with _LOCK:
        if (loaded := sys.modules.get("torch_fidelity")) is not None:
            return loaded
        try:
            return _import()
        except FAILURES as error:
            first = error
        if importlib.util.find_spec("torch_fidelity") is None:
            raise MissingLibraryError(f"torch-fidelity is not installed. {_ADVICE}") from first
        try:
            with _stand_ins():
                module = _import()
        except FAILURES as error:
            raise MissingLibraryError(f"torch-fidelity does not load: {first}. {_ADVICE}") from error
        logger.debug("torch-fidelity is used without torchvision, which does not load: {}", first)
        return module


def _import() -> ModuleType:
    """Import it; a failure leaves nothing half-imported behind."""
    before = set(sys.modules)
    try:
        return importlib.import_module("torch_fidelity")
    except BaseException:
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in ("torch_fidelity", "torchvision"):
                del sys.modules[name]
        raise


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Empty modules in torchvision's place; whatever was there before comes back."""
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_torchvision(name)}
    for name, classes in _STAND_INS.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None, is_package=True)
        for each in classes:
            setattr(module, each, type(each, (), {}))
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in list(sys.modules):
            if _is_torchvision(name):
                del sys.modules[name]
        sys.modules.update(hidden)


def _is_torchvision(name: str) -> bool:
    return name.partition(".")[0] == "torchvision"
