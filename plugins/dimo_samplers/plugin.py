"""Registers the samplers."""

from dimo_core.hookspecs import Register, hookimpl

OFFERS = (
    (
        "maskgit",
        "maskgit:MaskGitSampler",
        "MaskGIT: keep the most confident tokens of each step, with Gumbel noise, or random ones",
    ),
    (
        "random-order",
        "random_order:RandomOrderSampler",
        "decide random sites, by a schedule of counts (paper, teacher rows)",
    ),
    (
        "halton",
        "halton:HaltonSampler",
        "decide sites far from one another first, in the order of the Halton sequence",
    ),
    (
        "blockwise",
        "blockwise:BlockwiseSampler",
        "LLaDA: block by block, in each the most confident tokens of a step first",
    ),
    (
        "dream",
        "dream:DreamSampler",
        "Dream: by a schedule of times, in random order or the surest tokens first",
    ),
    (
        "threshold",
        "threshold:ThresholdSampler",
        "Fast-dLLM, dParallel: in each pass all tokens of a block that are sure enough",
    ),
    (
        "ancestral",
        "ancestral:AncestralSampler",
        "the exact posterior of the masked process in each step (Tweedie, MDLM)",
    ),
    (
        "mdlm",
        "mdlm:MdlmSampler",
        "ancestral as MDLM's code: unchanged tokens cost no pass, a last pass decides what is left",
    ),
    (
        "tau-leaping",
        "tau_leaping:TauLeapingSampler",
        "jumps at the rates of the step's beginning, first order",
    ),
    (
        "theta-trapezoidal",
        "trapezoidal:ThetaTrapezoidalSampler",
        "jumps at extrapolated rates, second order, two passes a step",
    ),
)


@hookimpl
def dimo_register(register: Register) -> None:
    """MaskGIT's, three of text, two in a fixed or random order, and four that follow the reverse process."""
    for name, target, summary in OFFERS:
        register("sampler", name, f"dimo_samplers.{target}", summary=summary)
