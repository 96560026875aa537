"""The methods that are compared."""

from collections.abc import Mapping
from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class Method:
    """A method of distillation with its own choices.

    Attributes:
        about: What it is, as tables say.
        objective: The objective and its options.
        generator: Its generator's name; of ``few_step`` with one step ``one_step``.
        r_init: Share of masks that generation starts from. What learns from re-masked data starts from masks
            alone, as random codes are never seen there. None for generators that have no such option.
        auxiliary: Options of the auxiliary; None where there is none.
        divergence: Its own one; None where the objective has none.
        others: Whether other divergences may be tried.
        warm: An objective that half of the training goes to before.
        drawn: Whether its data are the teacher's own samples, and not those that the teacher learnt from.
        one_step: Whether it makes generators of one step only.
        pace: Multiplies the learning rates, in one step, in two and in more. Where the teacher's copy is
            nearly as good as anything, large rates lead away from it.
    """

    about: str
    objective: Mapping[str, Any]
    generator: str = "few_step"
    r_init: float | None = 1.0
    auxiliary: Mapping[str, Any] | None = attrs.field(factory=dict)
    divergence: str | None = "rkl"
    others: bool = False
    warm: Mapping[str, Any] | None = None
    drawn: bool = False
    one_step: bool = False
    pace: tuple[float, float, float]

    @property
    def divergences(self) -> tuple[str, ...] | None:
        """Names of those that may be chosen; None for all."""
        return None if self.others else (self.divergence or NONE,)


NONE = "none"
"""Stands for the divergence of a method that has none."""

DMMD: Mapping[str, Any] = {"name": "idlm", "corruption": "posterior"}
DI4C: Mapping[str, Any] = {"latents": 8, "delta": 0.25, "label_dropout": 0.0, "dropout": False}

METHODS: Mapping[str, Method] = {
    "dimo": Method(
        about="Di[M]O, r_init 0.6",
        objective={"name": "dimo"},
        r_init=0.6,
        divergence="jeffrey",
        others=True,
        pace=(1.0, 1.0, 0.03),
    ),
    "dimo-masks": Method(
        about="Di[M]O, r_init 1",
        objective={"name": "dimo"},
        divergence="jeffrey",
        pace=(0.3, 0.1, 0.03),
    ),
    "dimo-data": Method(
        about="Di[M]O from data",
        objective={"name": "dimo-data"},
        divergence="jeffrey",
        pace=(1.0, 0.1, 0.03),
    ),
    "idlm": Method(
        about="IDLM",
        objective={"name": "idlm"},
        auxiliary={"soft": 1.0},
        others=True,
        pace=(0.1, 0.03, 0.03),
    ),
    "d-mmd": Method(
        about="D-MMD",
        objective=DMMD,
        auxiliary={"teacher_weight": 1.0},
        pace=(0.1, 0.03, 0.03),
    ),
    "sdtt": Method(
        about="SDTT",
        objective={"name": "sdtt"},
        auxiliary=None,
        others=True,
        pace=(0.1, 0.03, 0.03),
    ),
    "pairs": Method(
        about="Pairs (ReDi)",
        objective={"name": "pairs", "label_smoothing": 0.0},
        r_init=0.6,
        auxiliary=None,
        divergence=None,
        drawn=True,
        one_step=True,
        pace=(0.1, 0.1, 0.1),
    ),
    "pairs-dimo": Method(
        about="Pairs, then Di[M]O",
        objective={"name": "dimo"},
        r_init=0.6,
        divergence="jeffrey",
        warm={"name": "pairs", "label_smoothing": 0.0},
        drawn=True,
        one_step=True,
        pace=(3.0, 3.0, 3.0),
    ),
    "imdm-dimo": Method(
        about="Di[M]O, noise at masks (IMDM)",
        objective={"name": "dimo"},
        generator="imdm",
        divergence="jeffrey",
        pace=(1.0, 0.1, 0.03),
    ),
    "imdm-idlm": Method(
        about="IDLM, noise at masks (IMDM)",
        objective={"name": "idlm"},
        generator="imdm",
        auxiliary={"soft": 1.0},
        pace=(0.3, 0.03, 0.03),
    ),
    "imdm-d-mmd": Method(
        about="D-MMD, noise at masks (IMDM)",
        objective=DMMD,
        generator="imdm",
        auxiliary={"teacher_weight": 1.0},
        pace=(1.0, 0.03, 0.03),
    ),
    "imdm-sdtt": Method(
        about="SDTT, noise at masks (IMDM)",
        objective={"name": "sdtt"},
        generator="imdm",
        auxiliary=None,
        pace=(0.1, 0.03, 0.03),
    ),
    "di4c": Method(
        about="Di4C",
        objective={"name": "di4c", **DI4C},
        generator="mixture",
        r_init=None,
        auxiliary=None,
        divergence=None,
        pace=(0.3, 0.3, 0.3),
    ),
    "di4c-d": Method(
        about="Di4C with data",
        objective={"name": "di4c-d", **DI4C},
        generator="mixture",
        r_init=None,
        auxiliary=None,
        divergence=None,
        pace=(0.3, 0.3, 0.3),
    ),
}
