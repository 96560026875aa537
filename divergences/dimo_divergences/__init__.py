"""Token-level divergences: forward and reverse KL, Jeffrey, and the f-divergence family.

Each class is a frozen set of options, for example ``Jeffrey(beta=-0.2)``. They are imported on first use, so
that listing plugins imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dimo_divergences.alpha import Alpha
    from dimo_divergences.chi_square import Neyman, Pearson
    from dimo_divergences.fkl import FKL
    from dimo_divergences.gjs import GJS, JS
    from dimo_divergences.hellinger import Hellinger
    from dimo_divergences.jeffrey import Jeffrey
    from dimo_divergences.rkl import RKL
    from dimo_divergences.skew import SkewFKL, SkewRKL
    from dimo_divergences.triangular import Triangular
    from dimo_divergences.tv import TV

__all__ = [
    "FKL",
    "GJS",
    "JS",
    "RKL",
    "TV",
    "Alpha",
    "Hellinger",
    "Jeffrey",
    "Neyman",
    "Pearson",
    "SkewFKL",
    "SkewRKL",
    "Triangular",
]

_HOMES = {
    "GJS": "gjs",
    "JS": "gjs",
    "Neyman": "chi_square",
    "Pearson": "chi_square",
    "SkewFKL": "skew",
    "SkewRKL": "skew",
}


def __getattr__(name: str) -> Any:
    """Import a divergence on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, name.lower())}"), name)
