"""What the core itself offers, registered as anybody's plugin is."""

from dimo_core.hookspecs import Register, hookimpl


@hookimpl
def dimo_register(register: Register) -> None:
    """Offer the paper's generator, auxiliary and objective, guidance, and the silent tracker."""
    register(
        "generator",
        "one_step",
        "dimo_core.method.one_step:OneStep",
        summary="one forward pass from x_init (paper)",
    )
    register(
        "auxiliary",
        "denoiser",
        "dimo_core.method.denoiser:Denoiser",
        summary="an MDM of generated tokens (paper)",
    )
    register(
        "guidance", "constant", "dimo_core.guidance:Constant", summary="the same scale for every mask ratio"
    )
    register("guidance", "ramp", "dimo_core.guidance:Ramp", summary="from 1 (all masked) up to the scale")
    register(
        "guidance", "adaptive", "dimo_core.guidance:Adaptive", summary="from the scale (all masked) to 1"
    )
    register("objective", "dimo", "dimo_core.method.dimo:Dimo", summary="Di[M]O distillation")
    register(
        "objective",
        "masked-modelling",
        "dimo_core.method.masked_modelling:MaskedModelling",
        summary="pretraining of a masked diffusion model",
    )
    register("tracker", "none", "dimo_core.tracker:NoTracker", summary="nothing besides metrics.jsonl")
