"""What the core itself offers, registered as anybody's plugin is."""

from typing import Any

import attrs

from dimo_core.hookspecs import Register, hookimpl
from dimo_core.tracker import Tracker

OFFERS = (
    ("generator", "one_step", "method.one_step:OneStep", "one forward pass from x_init (paper)"),
    ("generator", "few_step", "method.few_step:FewStep", "k passes, the rest masked again after each"),
    ("auxiliary", "denoiser", "method.denoiser:Denoiser", "an MDM of generated tokens (paper)"),
    ("guidance", "constant", "guidance:Constant", "the same scale for every mask ratio"),
    ("guidance", "ramp", "guidance:Ramp", "from 1 (all masked) up to the scale"),
    ("guidance", "adaptive", "guidance:Adaptive", "from the scale (all masked) to 1"),
    ("objective", "dimo", "method.dimo:Dimo", "Di[M]O distillation"),
    ("objective", "dimo-data", "method.data_start:DimoData", "Di[M]O on completions of re-masked data"),
    (
        "objective",
        "idlm",
        "method.data_start:Idlm",
        "IDLM and D-MMD, from re-masked data",
    ),
    ("objective", "masked-modelling", "method.masked_modelling:MaskedModelling", "pretraining of a teacher"),
    ("tracker", "none", "plugin:NoTracker", "nothing besides metrics.jsonl"),
)


@hookimpl
def dimo_register(register: Register) -> None:
    """Offer the paper's generator, auxiliary and objective, guidance, and the silent tracker."""
    for kind, name, target, summary in OFFERS:
        register(kind, name, f"dimo_core.{target}", summary=summary)


@attrs.frozen(kw_only=True)
class NoTracker(Tracker):
    """Sends numbers nowhere: ``metrics.jsonl`` and the report have them all."""

    def _nothing(self, *_: Any, **__: Any) -> None:
        """Do nothing."""

    start = scalars = picture = finish = _nothing
