"""The core of dimo: interfaces, registry, engine and command line of Di[M]O distillation.

Importing it imports no torch: the public names, which ``__init__.pyi`` lists, are imported on first use.
"""

import ast
from importlib import import_module
from pkgutil import get_data
from typing import Any

_LIST = ast.parse(get_data(__name__, "__init__.pyi") or "")
_HOMES = {
    alias.name: node.module for node in _LIST.body if isinstance(node, ast.ImportFrom) for alias in node.names
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name == "__version__":
        from dimo_core.libraries import installed

        return installed("dimo") or "(not installed)"
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, "__version__"])
