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
    register(
        "metric",
        "clip-score",
        "dimo_metrics.clip_score:ClipScore",
        summary="how well images fit their prompts: cosine in the space of a CLIP",
    )
    register(
        "features",
        "inception",
        "dimo_metrics.inception:Inception",
        summary="InceptionV3 of FID: 2048 features and logits, by torch-fidelity",
    )
    register(
        "data",
        "reference-batch",
        "dimo_metrics.reference_batch:ReferenceBatch",
        summary="images of an ADM (guided-diffusion) reference batch",
    )
