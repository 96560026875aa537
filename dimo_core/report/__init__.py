"""What people look at: pages, plots, sheets and tables."""

import os
from importlib import import_module


def _load_matplotlib() -> None:
    """Import it with a backend that is there: a notebook's is where the notebook is, and dimo needs none."""
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import_module("matplotlib")
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


_load_matplotlib()
