"""Registers the divergences."""

from dimo_core.hookspecs import Register, hookimpl

_OFFERS = {
    "fkl": ("fkl:FKL", "forward KL(p||q), mode covering"),
    "rkl": ("rkl:RKL", "reverse KL(q||p), mode seeking"),
    "jeffrey": ("jeffrey:Jeffrey", "(1 - beta) FKL + beta RKL, any real beta"),
    "js": ("gjs:JS", "Jensen-Shannon, bounded"),
    "gjs": ("gjs:GJS", "generalised Jensen-Shannon with mixture weight beta, bounded"),
    "skew-fkl": ("skew:SkewFKL", "KL(p || alpha p + (1 - alpha) q), bounded"),
    "skew-rkl": ("skew:SkewRKL", "KL(q || (1 - alpha) p + alpha q), bounded"),
    "alpha": ("alpha:Alpha", "Amari's alpha-divergence: RKL at 0, FKL at 1"),
    "tv": ("tv:TV", "total variation, bounded, not smooth"),
    "hellinger": ("hellinger:Hellinger", "squared Hellinger distance, bounded"),
    "pearson": ("chi_square:Pearson", "sum (p - q)^2 / q, log-ratio clipped"),
    "neyman": ("chi_square:Neyman", "sum (p - q)^2 / p, log-ratio clipped"),
    "triangular": ("triangular:Triangular", "symmetric chi-square, sum (p - q)^2 / (p + q), bounded"),
}


@hookimpl
def dimo_register(register: Register) -> None:
    """Offer every divergence of the package."""
    for name, (target, summary) in _OFFERS.items():
        register("divergence", name, f"dimo_divergences.{target}", summary=summary)
