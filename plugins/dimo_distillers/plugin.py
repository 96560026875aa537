"""Registers what this package holds."""

from dimo_core.hookspecs import Register, hookimpl


@hookimpl
def dimo_register(register: Register) -> None:
    """Offer what this package holds."""
    register(
        "objective",
        "sdtt",
        "dimo_distillers.sdtt:Sdtt",
        summary="self-distillation through time: one step learns what two of the teacher's give",
    )
    register(
        "objective",
        "pairs",
        "dimo_distillers.pairs:Pairs",
        summary="cross-entropy on fixed pairs of x_init and a sample (ReDi)",
    )
    register(
        "objective",
        "certainty",
        "dimo_distillers.certainty:Certainty",
        summary="the teacher's answers, learnt until they are certain (dParallel, CAP)",
    )
    register("data", "samples", "dimo_distillers.samples:Samples", summary="what `dimo sample` drew")
    register(
        "generator", "imdm", "dimo_distillers.imdm:Imdm", summary="k passes; masks carry noise through an MLP"
    )
