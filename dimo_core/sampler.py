"""``Sampler``: multi-step sampling from a teacher."""

from abc import ABC, abstractmethod

import attrs

from dimo_core.backbone import Backbone
from dimo_core.draws import Draws
from dimo_core.guidance import Guidance
from dimo_core.teacher import Teacher
from dimo_core.tokens import Tokens
from dimo_core.tree import Condition


@attrs.frozen(kw_only=True, eq=False)
class Sampled:
    """Tokens, and what they cost.

    Attributes:
        tokens: ``[B, L]``, no mask left.
        passes: Forward passes a sample took, the guidance's second pass counted.
        trajectory: The tokens after each step, when asked for; else empty.
    """

    tokens: Tokens
    passes: int
    trajectory: tuple[Tokens, ...] = ()


class Sampler(ABC):
    """Multi-step sampling from a teacher; a frozen attrs class of its options."""

    @abstractmethod
    def sample(
        self,
        teacher: Teacher,
        network: Backbone,
        c: Condition,
        *,
        steps: int,
        guidance: Guidance,
        draws: Draws,
        keep_trajectory: bool = False,
    ) -> Sampled:
        """Draw one sample for each condition.

        Args:
            teacher: Token space and null condition.
            network: The teacher's network, in eval mode on ``draws.device``; in each step the sampler calls
                ``teacher.at_step(network, step, of)``.
            c: Conditions.
            steps: Number of steps, from 1 up; fewer are taken when nothing is masked any more.
            guidance: Scale by mask ratio and progress.
            draws: Random numbers; its ``count`` is B.
            keep_trajectory: True returns the tokens after each step too.
        """
