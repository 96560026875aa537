"""Registers the metrics that work in the features of any extractor."""

from dimo_core.hookspecs import Register, hookimpl


@hookimpl
def dimo_register(register: Register) -> None:
    """Offer what this package holds."""
    register(
        "metric",
        "fidelity",
        "dimo_metrics.fidelity:Fidelity",
        summary="FID, inception score, KID, precision and recall, by torch-fidelity",
    )
    register(
        "metric",
        "density-coverage",
        "dimo_metrics.density:DensityCoverage",
        summary="density and coverage of the reference's neighbourhoods",
    )
