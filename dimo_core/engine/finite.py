"""Keeps updates that are not finite away from the weights, without waiting for the device.

Whether a gradient is finite is decided and acted upon where it lives: the fused optimiser takes a flag and
leaves the weights alone. The host reads the flags when it waits for the device anyway.
"""

from collections.abc import Mapping

import attrs
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@attrs.frozen(kw_only=True)
class NonFinite:
    """An update that was kept from the weights.

    Attributes:
        step: The step of it.
        phase: The phase of it.
        culprits: Names of the values that were not finite.
    """

    step: int
    phase: str
    culprits: tuple[str, ...]


class FiniteGuard:
    """Checks each update's gradient norms and scalars.

    Args:
        device: Where they are.
        stop: True blocks every update after the first blocked one too, so that the weights stay as they were
            until the host finds out; False blocks just the one.
    """

    def __init__(self, device: torch.device, *, stop: bool) -> None:
        self.stop = stop
        self.blocked: Bool[Tensor, ""] = torch.zeros((), dtype=torch.bool, device=device)
        self.count: Int[Tensor, ""] = torch.zeros((), dtype=torch.long, device=device)
        self.in_a_row: dict[str, Int[Tensor, ""]] = {}
        """By phase, how many of its last updates were blocked, one after another; on the device. Checkpoints
        keep it, so that a job which is stopped every few steps comes to its end as well."""
        self._found: dict[tuple[str, tuple[str, ...]], tuple[Tensor, Tensor]] = {}

    def check(self, step: int, phase: str, values: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """1 where the update must not reach the weights, else 0; the host is not made to wait.

        Args:
            step: The step.
            phase: The phase.
            values: Gradient norms and scalars of the update, by name.
        """
        flags = torch.stack([~value.isfinite().all() for value in values.values()])
        bad = flags.any()
        first = bad & ~self.blocked if self.stop else bad
        key = (phase, tuple(values))
        when, which = self._found.get(key, (torch.full_like(self.count, -1), torch.zeros_like(flags)))
        self._found[key] = (torch.where(first, step, when), torch.where(first, flags, which))
        self.count += first
        before = self.in_a_row.get(phase, torch.zeros_like(self.count))
        self.in_a_row[phase] = torch.where(bad, before + 1, 0)
        self.blocked = self.blocked | bad if self.stop else bad
        return self.blocked.float()

    def read(self) -> list[NonFinite]:
        """What was blocked since the last call, the last one of each phase; waits for the device."""
        found = []
        for (phase, names), (when, which) in self._found.items():
            if int(when) >= 0:
                culprits = tuple(name for name, flag in zip(names, which.tolist(), strict=True) if flag)
                found.append(NonFinite(step=int(when), phase=phase, culprits=culprits))
        self._found.clear()
        return found
