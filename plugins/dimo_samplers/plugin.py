"""Registers the samplers."""

from dimo_core.hookspecs import Register, hookimpl


@hookimpl
def dimo_register(register: Register) -> None:
    """MaskGIT's, three of text, two in a fixed or random order, and four that follow the reverse process."""
    register(
        "sampler",
        "maskgit",
        "dimo_samplers.maskgit:MaskGitSampler",
        summary="MaskGIT: keep the most confident tokens of each step, with Gumbel noise, or random ones",
    )
    register(
        "sampler",
        "random-order",
        "dimo_samplers.random_order:RandomOrderSampler",
        summary="decide random sites, by a schedule of counts (paper, teacher rows)",
    )
    register(
        "sampler",
        "halton",
        "dimo_samplers.halton:HaltonSampler",
        summary="decide sites far from one another first, in the order of the Halton sequence",
    )
    register(
        "sampler",
        "blockwise",
        "dimo_samplers.blockwise:BlockwiseSampler",
        summary="LLaDA: block by block, in each the most confident tokens of a step first",
    )
    register(
        "sampler",
        "dream",
        "dimo_samplers.dream:DreamSampler",
        summary="Dream: by a schedule of times, in random order or the surest tokens first",
    )
    register(
        "sampler",
        "threshold",
        "dimo_samplers.threshold:ThresholdSampler",
        summary="Fast-dLLM, dParallel: in each pass all tokens of a block that are sure enough",
    )
    register(
        "sampler",
        "ancestral",
        "dimo_samplers.ancestral:AncestralSampler",
        summary="the exact posterior of the masked process in each step (Tweedie, MDLM)",
    )
    register(
        "sampler",
        "mdlm",
        "dimo_samplers.mdlm:MdlmSampler",
        summary="ancestral as MDLM's code: unchanged tokens cost no pass, a last pass decides what is left",
    )
    register(
        "sampler",
        "tau-leaping",
        "dimo_samplers.tau_leaping:TauLeapingSampler",
        summary="jumps at the rates of the step's beginning, first order",
    )
    register(
        "sampler",
        "theta-trapezoidal",
        "dimo_samplers.trapezoidal:ThetaTrapezoidalSampler",
        summary="jumps at extrapolated rates, second order, two passes a step",
    )
